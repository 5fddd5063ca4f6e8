"""Memory layout: a result lies in memory as its input does."""

from __future__ import annotations

import torch
from torch import Tensor

_CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}


def in_layout_of(x: Tensor, y: Tensor) -> Tensor:
    """``y``, of ``x``'s shape: in channels_last(_3d) where the channels of ``x`` are neighbours, else contiguous.

    >>> x = torch.zeros(2, 3, 4, 5).to(memory_format=torch.channels_last)
    >>> in_layout_of(x, torch.ones(2, 3, 4, 5)).stride() == x.stride()
    True
    """
    if x.dim() in _CHANNELS_LAST and x.stride(1) == 1 and not x.is_contiguous():
        return y.contiguous(memory_format=_CHANNELS_LAST[x.dim()])
    return y.contiguous()
