"""Normalization for PyTorch: choose it by measurement, use it right, see it, change it, do without it."""

from .backends import available_backends as available_backends
from .backends import use_backend as use_backend
from .backends.huge_pages import huge_pages as huge_pages
from .core.activations import ACTIVATIONS as ACTIVATIONS
from .core.formulas import Affine as Affine
from .core.moments import Moments as Moments
from .layers import NORMALIZERS as NORMALIZERS
from .layers import BatchNorm1d as BatchNorm1d
from .layers import BatchNorm2d as BatchNorm2d
from .layers import BatchNorm3d as BatchNorm3d
from .layers import GhostBatchNorm1d as GhostBatchNorm1d
from .layers import GhostBatchNorm2d as GhostBatchNorm2d
from .layers import GhostBatchNorm3d as GhostBatchNorm3d
from .layers import GroupNorm as GroupNorm
from .layers import InstanceNorm1d as InstanceNorm1d
from .layers import InstanceNorm2d as InstanceNorm2d
from .layers import InstanceNorm3d as InstanceNorm3d
from .layers import LayerNorm as LayerNorm
from .layers import RMSNorm as RMSNorm
from .layers import SyncBatchNorm as SyncBatchNorm
from .layers import freeze as freeze
from .layers import make_norm as make_norm
from .layers import no_update as no_update
from .layers import pool_updates as pool_updates
from .layers import statistics_bank as statistics_bank
from .layers import unfreeze as unfreeze
from .operations.normalize import normalize as normalize
from .operations.normalize import normalize_and_measure as normalize_and_measure

__version__ = "0.1.0"
