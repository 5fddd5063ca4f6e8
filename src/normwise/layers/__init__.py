"""Drop-in normalization layers, and the table of all of them."""

from .batch_norm import BatchNorm1d as BatchNorm1d
from .batch_norm import BatchNorm2d as BatchNorm2d
from .batch_norm import BatchNorm3d as BatchNorm3d
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
