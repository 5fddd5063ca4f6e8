"""What torch's own operators save for a backward pass, which they trust to be there when it comes."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple
from weakref import ref

import torch
from torch import Tensor

from normwise.core.kinds import kinds_of
from normwise.core.layout import PLAIN, check_memory

from .context import plain_operations_wanted


def guarded(y: Tensor, *read: Tensor | None) -> Tensor:
    """``y``, whose backward raises RuntimeError if a tensor that it reads does not hold its values any more.

    ``weight.data = ...`` may have put a tensor of another size or dtype there, and a ``resize_`` of its storage
    released the memory, neither of which autograd notices.
    """
    if not y.requires_grad or plain_operations_wanted():
        return y
    saved = [
        _Extent(ref(t), t.numel(), t.dtype, t.untyped_storage().nbytes())
        for t in read
        if t is not None and type(t) in PLAIN
    ]
    y.grad_fn.register_prehook(partial(_check, saved))  # type: ignore[union-attr]
    return y


class SavedKinds:
    """`guarded` for all calls of one kind: what their saved tensors must still be when a backward pass comes."""

    __slots__ = ("kinds", "sizes")

    def __init__(self, *read: Tensor) -> None:
        self.kinds, self.sizes = kinds_of(*read), [t.numel() * t.itemsize for t in read]

    def guard(self, y: Tensor, *read: Tensor) -> None:
        """``read``: the tensors that the operator behind ``y`` saved."""
        y.grad_fn.register_prehook(_Reader(self, *read))  # type: ignore[union-attr]


class _Reader:
    """One call's tensors, not kept alive for that, before its backward pass."""

    __slots__ = ("of", "tensors")

    def __init__(self, of: SavedKinds, *read: Tensor) -> None:
        self.of, self.tensors = of, [ref(t) for t in read]

    def __call__(self, _: object) -> None:
        found: list[Tensor] = []
        for reference, size in zip(self.tensors, self.of.sizes, strict=True):
            t = reference()
            if t is None:
                return  # nobody can have changed what the graph alone holds
            if t.untyped_storage().nbytes() < size + t.storage_offset() * t.itemsize:
                check_memory(t)
            found.append(t)
        if self.of.kinds.check(*found):
            return
        received = ", ".join(f"{list(t.shape)} {t.dtype}" for t in found)
        raise RuntimeError(
            f"A tensor that the backward pass needs is another one now, in shape or dtype ({received}); change it "
            "in place, or after the backward pass."
        )


class _Extent(NamedTuple):
    """How large a tensor was; it is not kept alive for that."""

    tensor: ref[Tensor]
    count: int
    dtype: torch.dtype
    bytes: int


def _check(saved: list[_Extent], _: object) -> None:
    for extent in saved:
        t = extent.tensor()
        if t is None or (
            t.numel() == extent.count and t.dtype is extent.dtype and t.untyped_storage().nbytes() >= extent.bytes
        ):
            continue
        raise RuntimeError(
            f"A tensor of {extent.count} values of {extent.dtype} that the backward pass needs is {t.dtype} of shape "
            f"{list(t.shape)} in {t.untyped_storage().nbytes()} bytes of memory now; change it in place, or after the "
            "backward pass."
        )
