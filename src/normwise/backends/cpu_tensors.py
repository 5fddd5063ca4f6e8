"""What the kernels of `cpu.py` take: tensors in a layout that they read, and tables of any strides."""

from __future__ import annotations

import ctypes
from typing import Any, overload

import torch
from torch import Tensor

from normwise.core.layout import in_layout_of
from normwise.core.moments import statistics_dtype

from .cpu_library import pointer, threads

#: In which type a layer's tensors are: that of the statistics, that of the input, or fp64 (`Kept` in parameters.hpp).
WIDE, NARROW, DOUBLE = range(3)
_CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}


# A tensor's own method makes what comes from it: `torch.device` as a context would send `torch.empty` elsewhere.
_PROTOTYPE = torch.empty(0, dtype=torch.float64, device="cpu")


def new_table(shape: tuple[int, ...]) -> Tensor:
    """An empty table in fp64 for a kernel."""
    return _PROTOTYPE.new_empty(shape)


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


def laid_out(x: Tensor) -> tuple[Tensor, tuple[int, int, int, int, int]]:
    """`dense`, and `shape_of` it."""
    if not x.is_contiguous():
        x, last = dense(x)
        return x, shape_of(x, last)
    shape = x.shape
    samples, channels = shape[0], shape[1]
    space = x.numel() // (samples * channels)
    return x, (space == 1, samples, channels, space, threads())


def kept_in(kind: torch.dtype, dtype: torch.dtype) -> int | None:
    """How the kernels for ``dtype`` read what a layer keeps in ``kind``; None where they do not."""
    if kind is dtype:
        return NARROW
    if kind is statistics_dtype(dtype):
        return WIDE
    return DOUBLE if kind is torch.float64 else None


def as_parameters(
    dtype: torch.dtype, weight: Tensor | None, bias: Tensor | None
) -> tuple[Tensor | None, Tensor | None, int]:
    """A layer's parameters as the kernels for ``dtype`` read them, converted if need be, and in which type they are."""
    kind = dtype if weight is None else weight.dtype
    if bias is not None and bias.dtype is not kind:
        kind = bias.dtype if weight is None else statistics_dtype(dtype)
    kept = kept_in(kind, dtype)
    if kept is None:
        kind, kept = statistics_dtype(dtype), WIDE
    if weight is not None and (weight.dtype is not kind or not weight.is_contiguous()):
        weight = weight.detach().to(kind).contiguous()
    if bias is not None and (bias.dtype is not kind or not bias.is_contiguous()):
        bias = bias.detach().to(kind).contiguous()
    return weight, bias, kept


def in_dtype_of(p: Tensor | None, gradient: Tensor | None) -> Tensor | None:
    """The gradient of a parameter that was converted."""
    if p is None or gradient is None or gradient.dtype is p.dtype:
        return gradient
    return gradient.to(p.dtype)


def dense(x: Tensor) -> tuple[Tensor, bool]:
    """``x`` in a layout that the kernels read, copied if need be, and whether its channels are neighbours."""
    if x.is_contiguous():
        shape = x.shape
        return x, len(shape) == 2 or x.numel() == shape[0] * shape[1]
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
    shape = x.shape
    samples, channels = shape[0], shape[1]
    return last, samples, channels, x.numel() // (samples * channels), threads()
