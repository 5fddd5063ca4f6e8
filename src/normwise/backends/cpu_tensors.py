"""The arguments of the kernels of `cpu.py`: tensors in a layout that they can read, and tables of any strides.

Addresses leave Python only through `span`, `address`, `room` and `Tables`, which check that the memory is there; the
kernels compare the number of values with the number that they are about to read and write.
"""

from __future__ import annotations

import ctypes
from typing import overload

import torch
from torch import Tensor

from normwise.core.layout import PLAIN, check_memory, in_layout_of, values_in_memory
from normwise.core.moments import statistics_dtype

from .cpu_library import threads

#: The dtype of a layer's tensors: that of the statistics, that of the input, or fp64 (`Kept` in parameters.hpp).
WIDE, NARROW, DOUBLE = range(3)
_CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}


# Results are made by a tensor's own method: inside a `torch.device` context `torch.empty` would go to another device.
_PROTOTYPE = torch.empty(0, dtype=torch.float64, device="cpu")


def new_table(shape: tuple[int, ...]) -> Tensor:
    """An empty table in fp64 for a kernel."""
    return _PROTOTYPE.new_empty(shape)


#: An address (0 for none) and the number of values there.
Span = tuple[int, int]
_NOTHING: Span = (0, 0)


def span(t: Tensor | None) -> Span:
    """The span of a dense tensor that a kernel reads, after a check that its memory is there."""
    if t is None:
        return _NOTHING
    # Every tensor of every call comes here: the usual case, no offset into a storage, comes first.
    count = t.numel()
    if (
        type(t) not in PLAIN
        or not t.is_cpu
        or count == 0
        or t.untyped_storage().nbytes() < t.nbytes
        or (t.storage_offset() and values_in_memory(t) < count)
    ):
        raise _refusal(t)
    return t.data_ptr(), count


def address(t: Tensor, count: int) -> int:
    """The address of ``count`` values of a tensor whose kind was checked before.

    Only its memory is checked here.
    """
    # The check of `holds`, written out: one more call would double its time.
    if t.untyped_storage().nbytes() < (t.storage_offset() + count) * t.itemsize:
        raise _refusal(t)
    return t.data_ptr()


def room(t: Tensor | None) -> Span:
    """The span of a tensor that a kernel writes, allocated for it."""
    return _NOTHING if t is None else (t.data_ptr(), t.numel())


def _refusal(t: Tensor) -> Exception:
    """The error for a tensor that the kernels cannot read."""
    what = f"a tensor of shape {list(t.shape)}"
    if type(t) not in PLAIN or not t.is_cpu:
        return TypeError(
            f"The CPU kernels read plain tensors on the CPU, received {what}, a {type(t).__name__} on {t.device}; "
            "bring the layer's parameters, buffers and inputs to one device."
        )
    if t.numel() == 0:
        return ValueError(f"The CPU kernels read one value for each channel or position, received {what}, without any.")
    return RuntimeError(
        f"The memory of {what} was released or cut to {max(values_in_memory(t), 0)} values after it was made (an "
        "untyped_storage().resize_, as FSDP does between forward and backward); restore it before the call."
    )


class Tables:
    """Tables ``[N, C]`` of any strides in the kernels' form, kept alive during the call."""

    def __init__(self, dtype: torch.dtype, *tables: Tensor | None) -> None:
        self.kept, wide = tables, statistics_dtype(dtype)
        numbers: list[int | None] = []
        for t in tables:
            if t is None:
                numbers += (0, 0, 0, 0)
                continue
            if type(t) not in PLAIN or not t.is_cpu or t.dtype is not wide or t.dim() != 2:
                raise _refusal_of_table(t, wide)
            numbers += (t.data_ptr(), values_in_memory(t), *t.stride())
        self.arguments = (ctypes.c_int64 * len(numbers))(*numbers), len(tables)


def _refusal_of_table(t: Tensor, dtype: torch.dtype) -> TypeError:
    return TypeError(
        f"The CPU kernels take tables [N, C] of {dtype} on the CPU, received {t.dtype} of shape {list(t.shape)} on "
        f"{t.device}; the formula's parameters must be where its input is."
    )


def laid_out(x: Tensor) -> tuple[Tensor, tuple[int, int, int, int, int]]:
    """`dense(x)`, and its `shape_of`."""
    if not x.is_contiguous() or x.is_neg() or x._is_zerotensor():
        x, last = dense(x)
        return x, shape_of(x, last)
    shape = x.shape
    samples, channels = shape[0], shape[1]
    space = x.numel() // (samples * channels)
    return x, (space == 1, samples, channels, space, threads())


def lies_as(t: Tensor, dtype: torch.dtype, strides: tuple[int, ...]) -> bool:
    """Whether a kernel can read ``t`` without a conversion; its shape has been compared before."""
    return (
        type(t) in PLAIN
        and t.dtype is dtype
        and t.is_cpu
        and t.stride() == strides
        and not t.is_neg()
        and not t._is_zerotensor()
    )


def kept_in(tensor_dtype: torch.dtype, dtype: torch.dtype) -> int | None:
    """How the kernels for ``dtype`` read tensors of ``tensor_dtype`` that a layer keeps; None where they cannot."""
    if tensor_dtype is dtype:
        return NARROW
    if tensor_dtype is statistics_dtype(dtype):
        return WIDE
    return DOUBLE if tensor_dtype is torch.float64 else None


def as_parameters(
    dtype: torch.dtype, weight: Tensor | None, bias: Tensor | None
) -> tuple[Tensor | None, Tensor | None, int]:
    """A layer's parameters as the kernels for ``dtype`` read them, converted if necessary, and their `kept_in`."""
    parameter_dtype = dtype if weight is None else weight.dtype
    if bias is not None and bias.dtype is not parameter_dtype:
        parameter_dtype = bias.dtype if weight is None else statistics_dtype(dtype)
    kept = kept_in(parameter_dtype, dtype)
    if kept is None:
        parameter_dtype, kept = statistics_dtype(dtype), WIDE
    return _in_dtype(weight, parameter_dtype), _in_dtype(bias, parameter_dtype), kept


def _in_dtype(t: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """A parameter in a dtype and dense, converted if necessary; TypeError for one that is not floating."""
    if t is None:
        return None
    if t.dtype is not dtype:
        if not t.is_floating_point():
            raise TypeError(f"A layer's parameters and statistics must be floating, received {t.dtype}; convert them.")
        check_memory(t)
        t = t.detach().to(dtype)
    if not t.is_contiguous():
        check_memory(t)
        t = t.detach().contiguous()
    return resolved(t)


def resolved(t: Tensor) -> Tensor:
    """A tensor whose memory holds its values, unlike a lazy negative, or autograd's zeros without memory."""
    if t.is_neg() or t._is_zerotensor():
        return torch.empty_like(t).copy_(t.detach())
    return t


def in_dtype_of(p: Tensor | None, gradient: Tensor | None) -> Tensor | None:
    """The gradient of a parameter, converted back to the parameter's dtype."""
    if p is None or gradient is None or gradient.dtype is p.dtype:
        return gradient
    return gradient.to(p.dtype)


def dense(x: Tensor) -> tuple[Tensor, bool]:
    """``x`` in a layout that the kernels read, copied if necessary, and whether its channels are neighbours."""
    x = resolved(x)
    if x.is_contiguous():
        shape = x.shape
        return x, len(shape) == 2 or x.numel() == shape[0] * shape[1]
    if x.dim() in _CHANNELS_LAST and x.is_contiguous(memory_format=_CHANNELS_LAST[x.dim()]):
        return x, True
    if x.dim() == 3 and x.transpose(1, 2).is_contiguous():
        return x, True
    check_memory(x)
    return dense(in_layout_of(x, x))


@overload
def like(x: Tensor, t: Tensor) -> Tensor: ...
@overload
def like(x: Tensor, t: None) -> None: ...
def like(x: Tensor, t: Tensor | None) -> Tensor | None:
    """``t``, which has the shape of ``x``, in the layout of ``x``."""
    if t is None:
        return None
    if t.stride() == x.stride() and t.numel() == x.numel():
        return resolved(t)
    if t.shape != x.shape or not t.is_floating_point():
        raise ValueError(
            f"A tensor beside an input {list(x.shape)} of {x.dtype} must have its shape and a floating dtype, received "
            f"{list(t.shape)} of {t.dtype}."
        )
    check_memory(t)
    return torch.empty_like(x, dtype=t.dtype).copy_(t)


@overload
def matched(x: Tensor, t: Tensor) -> Tensor: ...
@overload
def matched(x: Tensor, t: None) -> None: ...
def matched(x: Tensor, t: Tensor | None) -> Tensor | None:
    """``t``, which has the shape of ``x``, in the layout and the dtype of ``x``."""
    t = like(x, t)
    if t is None or t.dtype is x.dtype:
        return t
    check_memory(t)
    return t.to(x.dtype)


def of_bytes(mask: Tensor | None) -> Tensor | None:
    """A mask in the kernels' form, a byte for each position."""
    if mask is None:
        return None
    if mask.dtype is not torch.bool:
        raise TypeError(f"A mask must be boolean, received {mask.dtype}; do not assign to its .data.")
    return mask.contiguous()


def shape_of(x: Tensor, last: bool) -> tuple[int, int, int, int, int]:
    """The arguments with which every kernel over ``[N, C, *space]`` begins."""
    shape = x.shape
    samples, channels = shape[0], shape[1]
    return last, samples, channels, x.numel() // (samples * channels), threads()
