"""The kernels in plain PyTorch: the specification. Runs everywhere."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from normwise.core.activations import Activation
from normwise.core.moments import Moments, widen
from normwise.core.responses import Response

name = "reference"


def unavailable() -> str | None:
    """The reason why this backend cannot be used on this machine; None where it can."""
    return None


def serves(x: Tensor) -> bool:
    """Whether the kernels support this tensor."""
    return True


def moments(x: Tensor, mask: Tensor | None) -> Moments:
    """Mean and biased variance of each plane, ``[N, C]``, over the values where ``mask`` is true."""
    return Moments.of(x, mask)


def apply(
    x: Tensor,
    mean: Tensor,
    scale: Tensor,
    shift: Tensor,
    residual: Tensor | None,
    activation: Activation | None,
) -> Tensor:
    """``y = f((x - mean) · scale + shift + residual)`` in ``x``'s dtype and layout."""
    z = _before_activation(x, mean, scale, shift, residual)
    return (z if activation is None else activation.function(z)).to(x.dtype)


def backward_reduce(
    grad_y: Tensor,
    x: Tensor,
    mean: Tensor,
    scale: Tensor,
    shift: Tensor,
    residual: Tensor | None,
    activation: Activation | None,
) -> tuple[Tensor, Tensor]:
    """``Σ g`` and ``Σ g·(x - mean)`` of each plane, ``[N, C]``, with ``g = grad_y · f'(z)``."""
    g = _grad_before_activation(grad_y, x, mean, scale, shift, residual, activation)
    if x.dim() == 2:
        return g, g * (widen(x) - mean)
    space = tuple(range(2, x.dim()))
    return g.sum(space), (g * (widen(x) - _over_space(mean, x))).sum(space)


def backward_apply(
    grad_y: Tensor,
    x: Tensor,
    mean: Tensor,
    scale: Tensor,
    shift: Tensor,
    residual: Tensor | None,
    activation: Activation | None,
    slope: Tensor | None,
    offset: Tensor | None,
    mask: Tensor | None,
) -> tuple[Tensor, Tensor | None]:
    """``grad_x = scale·g + slope·(x - mean) + offset`` (the last two over ``mask``), and ``grad_residual = g``.

    ``slope`` and ``offset`` carry the gradient that flows back through the statistics; both are None where
    the statistics were given, not measured.
    """
    g = _grad_before_activation(grad_y, x, mean, scale, shift, residual, activation)
    grad_x = _with_backflow(g * _over_space(scale, x), x, mean, slope, offset, mask)
    return grad_x.to(x.dtype), None if residual is None else g.to(residual.dtype)


def respond(x: Tensor, response: Response, tables: Sequence[Tensor], residual: Tensor | None) -> Tensor:
    """``y = f(x; scale, shift + residual, ...)`` with the response's ``tables``, in ``x``'s dtype and layout."""
    return response.function(widen(x), *_coefficients(x, tables, residual)).to(x.dtype)


def respond_reduce(
    grad_y: Tensor, x: Tensor, response: Response, tables: Sequence[Tensor], residual: Tensor | None
) -> tuple[Tensor, ...]:
    """``Σ grad_y · ∂f/∂t`` of each plane, ``[N, C]``, for every table t."""
    _, *slopes = response.slopes(widen(x), *_coefficients(x, tables, residual))
    space = tuple(range(2, x.dim()))
    grads = (grad_y.to(slope.dtype) * slope for slope in slopes)
    return tuple(grad.sum(space) if space else grad for grad in grads)


def respond_backward(
    grad_y: Tensor,
    x: Tensor,
    response: Response,
    tables: Sequence[Tensor],
    residual: Tensor | None,
    mean: Tensor,
    slope: Tensor | None,
    offset: Tensor | None,
    mask: Tensor | None,
) -> tuple[Tensor, Tensor | None]:
    """``grad_x = grad_y · ∂f/∂x + slope·(x - mean) + offset`` as in `backward_apply`, and ``grad_residual``."""
    to_x, _, to_shift, *_ = response.slopes(widen(x), *_coefficients(x, tables, residual))
    grad_x = _with_backflow(grad_y * to_x, x, mean, slope, offset, mask)
    return grad_x.to(x.dtype), None if residual is None else (grad_y * to_shift).to(residual.dtype)


def _coefficients(x: Tensor, tables: Sequence[Tensor], residual: Tensor | None) -> list[Tensor]:
    found = [_over_space(table, x) for table in tables]
    if residual is not None:
        found[1] = found[1] + residual
    return found


def _with_backflow(
    grad_x: Tensor, x: Tensor, mean: Tensor, slope: Tensor | None, offset: Tensor | None, mask: Tensor | None
) -> Tensor:
    """Add the gradient that flows back through the statistics."""
    if slope is None or offset is None:
        return grad_x
    through = torch.addcmul(_over_space(offset, x), widen(x) - _over_space(mean, x), _over_space(slope, x))
    return grad_x + (through if mask is None else torch.where(mask, through, 0))


def _before_activation(x: Tensor, mean: Tensor, scale: Tensor, shift: Tensor, residual: Tensor | None) -> Tensor:
    z = torch.addcmul(_over_space(shift, x), widen(x) - _over_space(mean, x), _over_space(scale, x))
    return z if residual is None else z + residual


def _grad_before_activation(
    grad_y: Tensor,
    x: Tensor,
    mean: Tensor,
    scale: Tensor,
    shift: Tensor,
    residual: Tensor | None,
    activation: Activation | None,
) -> Tensor:
    if activation is None:
        return grad_y.to(mean.dtype)
    return grad_y * activation.derivative(_before_activation(x, mean, scale, shift, residual))


def _over_space(table: Tensor, x: Tensor) -> Tensor:
    return table.reshape(table.shape + (1,) * (x.dim() - 2))
