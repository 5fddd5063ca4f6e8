"""Checks, before the backward pass, of what torch's own operators have saved and would trust."""

from __future__ import annotations

from weakref import ref

from torch import Tensor

from normwise.core.layout import PLAIN, check_memory, holds

from .context import plain_operations_wanted


def guarded(y: Tensor, *read: Tensor | None) -> Tensor:
    """``y``, whose backward raises RuntimeError if a tensor that it reads does not hold its values any more.

    ``weight.data = ...`` may have put a tensor of another size or dtype there, and a ``resize_`` of its storage
    released the memory, neither of which autograd notices.
    """
    if y.requires_grad and not plain_operations_wanted():
        watch(y, *read)
    return y


def watch(y: Tensor, *read: Tensor | None) -> None:
    """`guarded` for a ``y`` with a graph, outside of transforms."""
    y.grad_fn.register_prehook(_Saved(*read))  # type: ignore[union-attr]


class _Saved:
    """One call's tensors and what they were, not kept alive for that, to be looked at before its backward pass.

    Their kinds in torch's sense (`core.kinds`) do not matter: the backward pass may run where other modes hold, as
    behind autocast.
    """

    __slots__ = ("seen",)

    def __init__(self, *read: Tensor | None) -> None:
        self.seen = [(ref(t), t.shape, t.dtype) for t in read if t is not None and type(t) in PLAIN]

    def __call__(self, _: object) -> None:
        for reference, shape, dtype in self.seen:
            t = reference()
            if t is None:
                continue  # nobody can have changed what the graph alone holds
            if t.shape != shape or t.dtype is not dtype:
                raise RuntimeError(
                    f"A tensor of shape {list(shape)} of {dtype} that the backward pass needs is of shape "
                    f"{list(t.shape)} of {t.dtype} now; change it after the backward pass."
                )
            if not (t.is_contiguous() and holds(t, t.numel())):
                check_memory(t)
