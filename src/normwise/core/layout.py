"""Memory layout: a result lies in memory as its input does."""

from __future__ import annotations

import torch
from torch import Tensor

#: The classes of tensors whose memory holds their values; other classes may keep them anywhere.
PLAIN = frozenset((Tensor, torch.nn.Parameter))
_CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}


def values_in_memory(t: Tensor) -> int:
    """How many values the storage holds from the tensor's first on; it may have been released (FSDP) or cut.

    >>> t = torch.zeros(6)
    >>> t.untyped_storage().resize_(0).nbytes(), t.numel(), values_in_memory(t)
    (0, 6, 0)
    """
    return t.untyped_storage().nbytes() // t.itemsize - t.storage_offset()  # type: ignore[return-value]


def holds(t: Tensor, count: int) -> bool:
    """Whether the memory holds ``count`` values from the first one on."""
    return t.untyped_storage().nbytes() >= (t.storage_offset() + count) * t.itemsize


def check_memory(*tensors: Tensor | None) -> None:
    """RuntimeError where the memory of a tensor was released: torch's own operators would read past its end.

    Nothing is checked while tensors are traced or transformed, since they may have no memory then.
    """
    if torch.compiler.is_compiling() or torch._C._functorch.peek_interpreter_stack() is not None:  # pyright: ignore[reportAttributeAccessIssue]
        return
    for t in tensors:
        if t is None or type(t) not in PLAIN or t.is_meta or t.numel() == 0:
            continue
        if not holds(t, t.numel() if t.is_contiguous() else _extent(t)):
            raise RuntimeError(
                f"The memory of a tensor of shape {list(t.shape)} was released or cut after it was made (an "
                "untyped_storage().resize_, as FSDP does); restore it before the call."
            )


def _extent(t: Tensor) -> int:
    """How many values of memory a tensor spans: fewer than it has where it was expanded, more where it has gaps."""
    return 1 + sum((size - 1) * stride for size, stride in zip(t.shape, t.stride(), strict=True))


def in_layout_of(x: Tensor, y: Tensor) -> Tensor:
    """``y`` in the layout of ``x``: channels_last(_3d) where the channels of ``x`` are neighbours, else contiguous.

    >>> x = torch.zeros(2, 3, 4, 5).to(memory_format=torch.channels_last)
    >>> in_layout_of(x, torch.ones(2, 3, 4, 5)).stride() == x.stride()
    True
    """
    if x.dim() in _CHANNELS_LAST and x.stride(1) == 1 and not x.is_contiguous():
        return y.contiguous(memory_format=_CHANNELS_LAST[x.dim()])
    return y.contiguous()


def as_operators_lay(x: Tensor, y: Tensor) -> Tensor:
    """A contiguous ``y`` in the layout that torch's elementwise operators choose for ``x``, from its strides alone.

    >>> x = torch.zeros(2, 3, 4, 5).to(memory_format=torch.channels_last)[:, :, ::2]
    >>> as_operators_lay(x, torch.zeros(2, 3, 2, 5)).is_contiguous(memory_format=torch.channels_last)
    True
    """
    if x.dim() not in _CHANNELS_LAST or x.stride(1) == 0 or x.numel() == 0:
        return y
    least = 0
    for dim in (1, *range(x.dim() - 1, 1, -1), 0):
        stride = x.stride(dim)
        if stride < least or (dim == 0 and least == x.stride(1)):
            return y
        least = stride * x.shape[dim]
    return y.contiguous(memory_format=_CHANNELS_LAST[x.dim()])
