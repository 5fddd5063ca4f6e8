"""Whether a backend's kernels are the way."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from torch import Tensor

from normwise.core.layout import PLAIN

B = TypeVar("B")


def kernels(find: Callable[[Tensor], B | None], x: Tensor, mask: Tensor | None, *others: Tensor | None) -> B | None:
    """The backend that `fused_for` or `rows_for` finds for ``x``: without a mask, and with plain others beside it."""
    if mask is not None or not isinstance(x, Tensor):
        return None
    on_cpu = x.is_cpu
    for t in others:
        if t is not None and (type(t) not in PLAIN or (not (on_cpu and t.is_cpu) and t.device != x.device)):
            return None
    return find(x)
