"""Normalization for PyTorch: choose it by measurement, use it right, see it, change it, do without it."""

import typing as _typing
from importlib import import_module as _import_module

from . import functional as functional
from . import nets as nets
from .backends import available_backends as available_backends
from .backends import build_kernels as build_kernels
from .backends import use_backend as use_backend
from .backends.allocator import reuse_memory as reuse_memory
from .backends.huge_pages import huge_pages as huge_pages
from .core.activations import ACTIVATIONS as ACTIVATIONS
from .core.bound import formula as formula
from .core.formulas import Affine as Affine
from .core.moments import Moments as Moments
from .core.responses import Gated as Gated
from .core.responses import LargerScale as LargerScale
from .core.responses import Thresholded as Thresholded
from .layers import NORMALIZERS as NORMALIZERS
from .layers import SPADE as SPADE
from .layers import AdaptiveInstanceNorm as AdaptiveInstanceNorm
from .layers import BatchInstanceNorm1d as BatchInstanceNorm1d
from .layers import BatchInstanceNorm2d as BatchInstanceNorm2d
from .layers import BatchInstanceNorm3d as BatchInstanceNorm3d
from .layers import BatchNorm1d as BatchNorm1d
from .layers import BatchNorm2d as BatchNorm2d
from .layers import BatchNorm3d as BatchNorm3d
from .layers import BatchRenorm1d as BatchRenorm1d
from .layers import BatchRenorm2d as BatchRenorm2d
from .layers import BatchRenorm3d as BatchRenorm3d
from .layers import ConditionalBatchNorm1d as ConditionalBatchNorm1d
from .layers import ConditionalBatchNorm2d as ConditionalBatchNorm2d
from .layers import ConditionalBatchNorm3d as ConditionalBatchNorm3d
from .layers import ConditionalInstanceNorm1d as ConditionalInstanceNorm1d
from .layers import ConditionalInstanceNorm2d as ConditionalInstanceNorm2d
from .layers import ConditionalInstanceNorm3d as ConditionalInstanceNorm3d
from .layers import DynamicErf as DynamicErf
from .layers import DynamicTanh as DynamicTanh
from .layers import EvoNormB0 as EvoNormB0
from .layers import EvoNormS0 as EvoNormS0
from .layers import FilterResponseNorm1d as FilterResponseNorm1d
from .layers import FilterResponseNorm2d as FilterResponseNorm2d
from .layers import FilterResponseNorm3d as FilterResponseNorm3d
from .layers import GhostBatchNorm1d as GhostBatchNorm1d
from .layers import GhostBatchNorm2d as GhostBatchNorm2d
from .layers import GhostBatchNorm3d as GhostBatchNorm3d
from .layers import GlobalResponseNorm as GlobalResponseNorm
from .layers import GroupNorm as GroupNorm
from .layers import InstanceNorm1d as InstanceNorm1d
from .layers import InstanceNorm2d as InstanceNorm2d
from .layers import InstanceNorm3d as InstanceNorm3d
from .layers import LayerNorm as LayerNorm
from .layers import LayerNorm2d as LayerNorm2d
from .layers import RMSNorm as RMSNorm
from .layers import RMSNorm2d as RMSNorm2d
from .layers import SwitchableNorm1d as SwitchableNorm1d
from .layers import SwitchableNorm2d as SwitchableNorm2d
from .layers import SwitchableNorm3d as SwitchableNorm3d
from .layers import SyncBatchNorm as SyncBatchNorm
from .layers import make_norm as make_norm
from .layers import no_update as no_update
from .layers import pool_updates as pool_updates
from .layers import statistics_bank as statistics_bank
from .operations.normalize import normalize as normalize
from .operations.normalize import normalize_and_measure as normalize_and_measure
from .operations.ways import explain_way as explain_way
from .optim import AdaptiveGradientClipping as AdaptiveGradientClipping
from .optim import ClipReport as ClipReport
from .optim import adaptive_clip_grad_ as adaptive_clip_grad_
from .optim import param_groups as param_groups
from .weights import Baked as Baked
from .weights import ScaledWSConv1d as ScaledWSConv1d
from .weights import ScaledWSConv2d as ScaledWSConv2d
from .weights import ScaledWSConv3d as ScaledWSConv3d
from .weights import Sigma as Sigma
from .weights import WSConv1d as WSConv1d
from .weights import WSConv2d as WSConv2d
from .weights import WSConv3d as WSConv3d
from .weights import bake as bake
from .weights import scaled_weight_standardization as scaled_weight_standardization
from .weights import sigma as sigma
from .weights import spectral_norm as spectral_norm
from .weights import weight_standardization as weight_standardization

if _typing.TYPE_CHECKING:
    from . import comparison as comparison
    from . import signal as signal
    from . import surgery as surgery
    from .comparison import compare as compare
    from .signal import Figure as Figure
    from .signal import Finding as Finding
    from .signal import Findings as Findings
    from .signal import Histogram as Histogram
    from .signal import Tap as Tap
    from .signal import Trace as Trace
    from .signal import assert_signal as assert_signal
    from .signal import diagnose as diagnose
    from .signal import plot as plot
    from .signal import plot_histograms as plot_histograms
    from .signal import predict as predict
    from .signal import trace as trace
    from .signal import watch as watch
    from .surgery import Folded as Folded
    from .surgery import FoldRow as FoldRow
    from .surgery import adapt as adapt
    from .surgery import fold as fold
    from .surgery import freeze as freeze
    from .surgery import recalibrate as recalibrate
    from .surgery import swap as swap
    from .surgery import tiles as tiles
    from .surgery import unfreeze as unfreeze
    from .surgery import unsync as unsync

__version__ = "0.1.0"

# Imported on first use: a training script does without.
_IN_SIGNAL = (
    *("signal", "Figure", "Finding", "Findings", "Histogram", "Tap", "Trace", "assert_signal", "diagnose"),
    *("plot", "plot_histograms", "predict", "trace", "watch"),
)
_IN_SURGERY = (
    *("surgery", "Folded", "FoldRow", "adapt", "fold", "freeze", "recalibrate", "swap", "tiles", "unfreeze"),
    "unsync",
)
_LATER = (
    dict.fromkeys(_IN_SIGNAL, "signal")
    | dict.fromkeys(_IN_SURGERY, "surgery")
    | dict.fromkeys(("comparison", "compare"), "comparison")
)


if not _typing.TYPE_CHECKING:  # a type checker would take every misspelt name for one of these

    def __getattr__(name: str) -> _typing.Any:
        if name not in _LATER:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        module = _import_module(f".{_LATER[name]}", __name__)
        globals()[name] = found = module if name == _LATER[name] else getattr(module, name)
        return found


def __dir__() -> list[str]:
    return sorted(globals().keys() | _LATER.keys())
