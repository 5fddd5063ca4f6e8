"""Normalization of weights: spectral normalization, weight standardization, and baking both into plain weights."""

from .bake import Baked as Baked
from .bake import bake as bake
from .convolutions import ScaledWSConv1d as ScaledWSConv1d
from .convolutions import ScaledWSConv2d as ScaledWSConv2d
from .convolutions import ScaledWSConv3d as ScaledWSConv3d
from .convolutions import WSConv1d as WSConv1d
from .convolutions import WSConv2d as WSConv2d
from .convolutions import WSConv3d as WSConv3d
from .effective import Sigma as Sigma
from .effective import sigma as sigma
from .spectral_norm import spectral_norm as spectral_norm
from .standardization import scaled_weight_standardization as scaled_weight_standardization
from .standardization import weight_standardization as weight_standardization
