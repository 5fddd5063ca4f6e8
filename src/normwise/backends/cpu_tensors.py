"""What the kernels of `cpu.py` take: tensors in a layout that they read, and tables of any strides."""

from __future__ import annotations

import ctypes
from typing import Any, overload

import torch
from torch import Tensor

from normwise.core.layout import in_layout_of

from .cpu_library import pointer, threads

_CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}


class Tables:
    """Tables ``[N, C]`` of any strides as the kernels take them; keeps them alive during the call."""

    def __init__(self, *tables: Tensor | None) -> None:
        self.kept = tables
        strides = [n for t in tables for n in ((0, 0) if t is None else t.stride())]
        self.pointers = (ctypes.c_void_p * len(tables))(*map(pointer, tables))
        self.strides = (ctypes.c_int64 * len(strides))(*strides)

    @property
    def arguments(self) -> tuple[Any, Any]:
        return self.pointers, self.strides


def dense(x: Tensor) -> tuple[Tensor, bool]:
    """``x`` in a layout that the kernels read, copied if need be, and whether its channels are neighbours."""
    if x.is_contiguous():
        return x, x.dim() == 2 or x.numel() == x.shape[0] * x.shape[1]
    if x.dim() in _CHANNELS_LAST and x.is_contiguous(memory_format=_CHANNELS_LAST[x.dim()]):
        return x, True
    if x.dim() == 3 and x.transpose(1, 2).is_contiguous():
        return x, True
    return dense(in_layout_of(x, x))


@overload
def like(x: Tensor, t: Tensor) -> Tensor: ...
@overload
def like(x: Tensor, t: None) -> None: ...
def like(x: Tensor, t: Tensor | None) -> Tensor | None:
    """``t``, of ``x``'s shape, in the layout of ``x``."""
    if t is None or t.stride() == x.stride():
        return t
    return torch.empty_like(x, dtype=t.dtype).copy_(t)


def shape_of(x: Tensor, last: bool) -> tuple[int, int, int, int, int]:
    """The first arguments of every kernel over ``[N, C, *space]``."""
    samples, channels = x.shape[:2]
    return last, samples, channels, x.numel() // (samples * channels), threads()
