"""Checks, before the backward pass, of tensors that torch's own operators have saved and do not check again."""

from __future__ import annotations

from weakref import ref

from torch import Tensor

from normwise.core.layout import PLAIN, check_memory, holds

from .context import plain_operations_wanted


def guarded(y: Tensor, *read: Tensor | None) -> Tensor:
    """``y``, whose backward pass raises RuntimeError if a tensor that it reads has lost its values.

    ``weight.data = ...`` may have replaced it by a tensor of another size or dtype, and a ``resize_`` of its storage
    may have released its memory; autograd notices neither.
    """
    if y.requires_grad and not plain_operations_wanted():
        watch(y, *read)
    return y


def watch(y: Tensor, *read: Tensor | None) -> None:
    """As `guarded`, for a ``y`` that has a graph and is not inside a transform."""
    y.grad_fn.register_prehook(_Saved(*read))  # type: ignore[union-attr]


class _Saved:
    """One call's tensors, held by weak references, and their forms, to be compared before the backward pass.

    Their kinds in the sense of `core.kinds` may differ: the backward pass may run in another mode, such as outside of
    autocast.
    """

    __slots__ = ("seen",)

    def __init__(self, *read: Tensor | None) -> None:
        self.seen = [(ref(t), t.shape, t.dtype) for t in read if t is not None and type(t) in PLAIN]

    def __call__(self, _: object) -> None:
        for reference, shape, dtype in self.seen:
            t = reference()
            if t is None:
                continue  # a tensor that only the graph holds cannot have been changed
            if t.shape != shape or t.dtype is not dtype:
                raise RuntimeError(
                    f"A tensor of shape {list(shape)} of {dtype} that the backward pass needs is of shape "
                    f"{list(t.shape)} of {t.dtype} now; change it after the backward pass."
                )
            if not (t.is_contiguous() and holds(t, t.numel())):
                check_memory(t)
