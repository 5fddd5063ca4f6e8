"""What the kernels of `cpu.py` take: tensors in a layout that they read, and tables of any strides.

No address leaves Python but through `span`, `room` and `Tables`, which see to it that the memory is there; the kernels
compare the number of values with what they are about to read and write.
"""

from __future__ import annotations

import ctypes
from typing import overload

import torch
from torch import Tensor

from normwise.core.layout import PLAIN, check_memory, in_layout_of, values_in_memory
from normwise.core.moments import statistics_dtype

from .cpu_library import threads

#: In which type a layer's tensors are: that of the statistics, that of the input, or fp64 (`Kept` in parameters.hpp).
WIDE, NARROW, DOUBLE = range(3)
_CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}


# A tensor's own method makes what comes from it: `torch.device` as a context would send `torch.empty` elsewhere.
_PROTOTYPE = torch.empty(0, dtype=torch.float64, device="cpu")


def new_table(shape: tuple[int, ...]) -> Tensor:
    """An empty table in fp64 for a kernel."""
    return _PROTOTYPE.new_empty(shape)


#: An address, 0 for none, and how many values are there.
Span = tuple[int, int]
_NOTHING: Span = (0, 0)


def span(t: Tensor | None) -> Span:
    """A dense tensor that a kernel reads, after the check that its memory is there."""
    if t is None:
        return _NOTHING
    # Every tensor of every call comes here: an offset into a storage is what is rare.
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
    """Where the ``count`` values are of a tensor of a kind that was looked at before.

    What is left to ask is whether its memory is there.
    """
    # As `holds`, which a call more costs as much as.
    if t.untyped_storage().nbytes() < (t.storage_offset() + count) * t.itemsize:
        raise _refusal(t)
    return t.data_ptr()


def room(t: Tensor | None) -> Span:
    """What a kernel writes: memory that was allocated for it."""
    return _NOTHING if t is None else (t.data_ptr(), t.numel())


def _refusal(t: Tensor) -> Exception:
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
    """Tables ``[N, C]`` of any strides as the kernels take them; keeps them alive during the call."""

    def __init__(self, dtype: torch.dtype, *tables: Tensor | None) -> None:
        self.kept, kind = tables, statistics_dtype(dtype)
        numbers: list[int | None] = []
        for t in tables:
            if t is None:
                numbers += (0, 0, 0, 0)
                continue
            if type(t) not in PLAIN or not t.is_cpu or t.dtype is not kind or t.dim() != 2:
                raise _refusal_of_table(t, kind)
            numbers += (t.data_ptr(), values_in_memory(t), *t.stride())
        self.arguments = (ctypes.c_int64 * len(numbers))(*numbers), len(tables)


def _refusal_of_table(t: Tensor, kind: torch.dtype) -> TypeError:
    return TypeError(
        f"The CPU kernels take tables [N, C] of {kind} on the CPU, received {t.dtype} of shape {list(t.shape)} on "
        f"{t.device}; the formula's parameters must be where its input is."
    )


def laid_out(x: Tensor) -> tuple[Tensor, tuple[int, int, int, int, int]]:
    """`dense`, and `shape_of` it."""
    if not x.is_contiguous() or x.is_neg() or x._is_zerotensor():
        x, last = dense(x)
        return x, shape_of(x, last)
    shape = x.shape
    samples, channels = shape[0], shape[1]
    space = x.numel() // (samples * channels)
    return x, (space == 1, samples, channels, space, threads())


def lies_as(t: Tensor, dtype: torch.dtype, strides: tuple[int, ...]) -> bool:
    """Whether a kernel reads ``t`` as it comes, of a shape that was compared with that of the tensor it goes with."""
    return (
        type(t) in PLAIN
        and t.dtype is dtype
        and t.is_cpu
        and t.stride() == strides
        and not t.is_neg()
        and not t._is_zerotensor()
    )


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
    return _in_dtype(weight, kind), _in_dtype(bias, kind), kept


def _in_dtype(t: Tensor | None, kind: torch.dtype) -> Tensor | None:
    if t is None:
        return None
    if t.dtype is not kind:
        if not t.is_floating_point():
            raise TypeError(f"A layer's parameters and statistics must be floating, received {t.dtype}; convert them.")
        check_memory(t)
        t = t.detach().to(kind)
    if not t.is_contiguous():
        check_memory(t)
        t = t.detach().contiguous()
    return resolved(t)


def resolved(t: Tensor) -> Tensor:
    """A tensor whose memory holds what it says: not the negative of it, nor nothing, as autograd's zeros do."""
    if t.is_neg() or t._is_zerotensor():
        return torch.empty_like(t).copy_(t.detach())
    return t


def in_dtype_of(p: Tensor | None, gradient: Tensor | None) -> Tensor | None:
    """The gradient of a parameter that was converted."""
    if p is None or gradient is None or gradient.dtype is p.dtype:
        return gradient
    return gradient.to(p.dtype)


def dense(x: Tensor) -> tuple[Tensor, bool]:
    """``x`` in a layout that the kernels read, copied if need be, and whether its channels are neighbours."""
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
    """``t``, of ``x``'s shape, in the layout of ``x``."""
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
    """``t``, of ``x``'s shape, in the layout and the dtype of ``x``."""
    t = like(x, t)
    if t is None or t.dtype is x.dtype:
        return t
    check_memory(t)
    return t.to(x.dtype)


def of_bytes(mask: Tensor | None) -> Tensor | None:
    """A mask as the kernels read it, a byte for each position."""
    if mask is None:
        return None
    if mask.dtype is not torch.bool:
        raise TypeError(f"A mask must be boolean, this one is {mask.dtype} now; do not assign to its .data.")
    return mask.contiguous()


def shape_of(x: Tensor, last: bool) -> tuple[int, int, int, int, int]:
    """The first arguments of every kernel over ``[N, C, *space]``."""
    shape = x.shape
    samples, channels = shape[0], shape[1]
    return last, samples, channels, x.numel() // (samples * channels), threads()
