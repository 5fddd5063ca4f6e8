"""A bounded function of each value in the place of a normalizer: no statistics at all."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from normwise.core.moments import widen

from .epilogue import finish
from .native import guarded
from .transforms import without_autocast


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
    return _squash(
        x, lambda values: torch.tanh(guarded(alpha * values, alpha, values)), weight, bias, dim, activation, residual
    )


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
    return _squash(
        x,
        lambda values: torch.erf(guarded(alpha * values, alpha, values) + shift),
        weight,
        bias,
        dim,
        activation,
        residual,
    )


def _squash(
    x: Tensor,
    curve: Callable[[Tensor], Tensor],
    weight: Tensor | None,
    bias: Tensor | None,
    dim: int,
    activation: str | None,
    residual: Tensor | None,
) -> Tensor:
    with without_autocast(x):
        y = curve(widen(x))
        shape = [1] * x.dim()
        shape[dim] = -1
        if weight is not None:
            y = guarded(y * weight.view(shape), weight)
        if bias is not None:
            y = y + bias.view(shape)
        return finish(y.to(x.dtype), activation, residual)
