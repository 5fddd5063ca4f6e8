"""Drop-in normalization layers, and the table of all of them."""

from .batch_norm import BatchNorm1d as BatchNorm1d
from .batch_norm import BatchNorm2d as BatchNorm2d
from .batch_norm import BatchNorm3d as BatchNorm3d
from .batch_norm import GhostBatchNorm1d as GhostBatchNorm1d
from .batch_norm import GhostBatchNorm2d as GhostBatchNorm2d
from .batch_norm import GhostBatchNorm3d as GhostBatchNorm3d
from .batch_norm import SyncBatchNorm as SyncBatchNorm
from .group_norm import GroupNorm as GroupNorm
from .group_norm import InstanceNorm1d as InstanceNorm1d
from .group_norm import InstanceNorm2d as InstanceNorm2d
from .group_norm import InstanceNorm3d as InstanceNorm3d
from .layer_norm import LayerNorm as LayerNorm
from .layer_norm import RMSNorm as RMSNorm
from .registry import NORMALIZERS as NORMALIZERS
from .registry import Norm as Norm
from .registry import Normalizer as Normalizer
from .registry import default_groups as default_groups
from .registry import find_normalizer as find_normalizer
from .registry import make_norm as make_norm
from .registry import map_normalizers as map_normalizers
from .statistics import freeze as freeze
from .statistics import no_update as no_update
from .statistics import pool_updates as pool_updates
from .statistics import statistics_bank as statistics_bank
from .statistics import unfreeze as unfreeze
