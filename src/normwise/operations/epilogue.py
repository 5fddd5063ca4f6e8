"""Residual and activation as operations of their own, where no kernel takes them along."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.overrides import _get_current_function_mode_stack
from torch.utils._device import DeviceContext

from normwise.core.activations import activation_named
from normwise.core.arguments import check_residual
from normwise.core.layout import check_memory
from normwise.core.moments import widen


def finish(y: Tensor, activation: str | None, residual: Tensor | None) -> Tensor:
    """Residual and activation after an operator that cannot fuse them."""
    if residual is not None:
        check_residual(residual, y)
        check_memory(residual)
        y = (y + residual).to(y.dtype)
    act = activation_named(activation)
    return y if act is None else act.function(y)


def to_be_finished(x: Tensor, activation: str | None, residual: Tensor | None) -> Tensor:
    """``x`` as an operator gets it that `finish` follows: widened, so that only the end is rounded to its type."""
    return x if activation is None and residual is None else widen(x)


def additions_are_watched() -> bool:
    """Whether a torch function mode, such as that of `trace`, looks for them: then no kernel may take one along."""
    if torch._C._len_torch_function_stack() == 0:  # pyright: ignore[reportAttributeAccessIssue]
        return False
    return any(not isinstance(mode, DeviceContext) for mode in _get_current_function_mode_stack())
