"""Sheets of pictures made by nets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from ..style.pictures import Picture
from ..style.sheets import contact_sheet

if TYPE_CHECKING:
    from PIL.Image import Image

SIDE, GAP = 48, 4


def sheet(rows: Mapping[str, Tensor], side: int = SIDE) -> Image:
    """Rows of pictures ``[N, 1 or 3, H, W]`` in [0, 1], each enlarged to `side` pixels, with the row's name below."""
    strips = [_strip(pictures, side) for pictures in rows.values()]
    longest = max(strip.shape[2] for strip in strips)
    return contact_sheet([Picture(strip) for strip in strips], list(rows), columns=1, longest=longest)


def _strip(pictures: Tensor, side: int) -> Tensor:
    """The pictures side by side, with white gaps."""
    large = F.interpolate(pictures.clamp(0, 1), (side, side)).expand(-1, 3, -1, -1)
    return torch.cat(list(F.pad(large, (GAP, 0), value=1.0)), 2)
