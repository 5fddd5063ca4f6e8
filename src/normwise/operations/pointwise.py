"""A bounded function of each value in the place of a normalizer: no statistics at all."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from normwise.core.layout import check_memory
from normwise.core.moments import widen
from normwise.core.tables import check_optional, check_scalars

from .context import without_autocast
from .epilogue import finish
from .saved import guarded


def dynamic_tanh(
    x: Tensor,
    alpha: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    dim: int = -1,
    activation: str | None = None,
    residual: Tensor | None = None,
) -> Tensor:
    r""":math:`\gamma\tanh(\alpha x) + \beta`, with γ and β per channel of dimension ``dim``."""
    check_scalars("DynamicTanh", x, alpha=alpha)
    return _squash("DynamicTanh", x, alpha, torch.tanh, weight, bias, dim, activation, residual)


def dynamic_erf(
    x: Tensor,
    alpha: Tensor,
    shift: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    dim: int = -1,
    activation: str | None = None,
    residual: Tensor | None = None,
) -> Tensor:
    r""":math:`\gamma\,\text{erf}(\alpha x + s) + \beta`, with γ and β per channel of dimension ``dim``."""
    check_scalars("DynamicErf", x, alpha=alpha, shift=shift)
    return _squash("DynamicErf", x, alpha, lambda t: torch.erf(t + shift), weight, bias, dim, activation, residual)


def _squash(
    caller: str,
    x: Tensor,
    alpha: Tensor,
    curve: Callable[[Tensor], Tensor],
    weight: Tensor | None,
    bias: Tensor | None,
    dim: int,
    activation: str | None,
    residual: Tensor | None,
) -> Tensor:
    check_optional(caller, x, (x.shape[dim],), weight=weight, bias=bias)
    with without_autocast(x):
        check_memory(x, alpha, weight, bias)
        values = widen(x)
        y = curve(guarded(alpha * values, alpha, values))
        shape = [1] * x.dim()
        shape[dim] = -1
        if weight is not None:
            y = guarded(y * weight.view(shape), weight)
        if bias is not None:
            y = y + bias.view(shape)
        return finish(y, activation, residual).to(x.dtype)
