"""Residual and activation as operations of their own, where no kernel takes them along."""

from __future__ import annotations

from torch import Tensor

from normwise.core.activations import activation_named
from normwise.core.arguments import check_residual


def finish(y: Tensor, activation: str | None, residual: Tensor | None) -> Tensor:
    """Residual and activation after an operator that cannot fuse them."""
    if residual is not None:
        check_residual(residual, y)
        y = (y + residual).to(y.dtype)
    act = activation_named(activation)
    return y if act is None else act.function(y)
