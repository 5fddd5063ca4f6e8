"""Training without normalizers: adaptive gradient clipping, and parameter groups for weight decay."""

from .clipping import adaptive_clip_grad_ as adaptive_clip_grad_
from .groups import param_groups as param_groups
from .report import ClipReport as ClipReport
from .wrapper import AdaptiveGradientClipping as AdaptiveGradientClipping
