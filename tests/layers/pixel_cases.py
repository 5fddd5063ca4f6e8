"""What the tests of LayerNorm2d and RMSNorm2d share."""

import pytest
from torch import nn

import normwise as nw

C = 6
SHAPES = {"0d": (5, C), "1d": (3, C, 7), "2d": (2, C, 5, 3), "3d": (2, C, 3, 2, 4)}
CLASSES = [nw.LayerNorm2d, nw.RMSNorm2d]
TWIN = {nw.LayerNorm2d: nn.LayerNorm, nw.RMSNorm2d: nn.RMSNorm}
both = pytest.mark.parametrize("cls", CLASSES)
