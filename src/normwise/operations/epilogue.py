"""Residual and activation as separate operations, where no kernel fuses them."""

from __future__ import annotations

from torch import Tensor

from normwise.core.activations import activation_named
from normwise.core.arguments import check_residual
from normwise.core.layout import check_memory
from normwise.core.moments import widen


def finish(y: Tensor, activation: str | None, residual: Tensor | None) -> Tensor:
    """Add the residual and apply the activation, after an operator that cannot fuse them."""
    if residual is not None:
        check_residual(residual, y)
        check_memory(residual)
        y = (y + residual).to(y.dtype)
    act = activation_named(activation)
    return y if act is None else act.function(y)


def to_be_finished(x: Tensor, activation: str | None, residual: Tensor | None) -> Tensor:
    """``x`` for an operator that `finish` follows: widened, so that only the end result is rounded to its dtype."""
    return x if activation is None and residual is None else widen(x)


def narrowed(y: Tensor, x: Tensor) -> Tensor:
    """``y`` in the dtype of ``x``."""
    return y if y.dtype == x.dtype else y.to(x.dtype)
