"""The kernels of `cpu.py` for a bounded function instead of a normalizer."""

from __future__ import annotations

import torch
from torch import Tensor

from normwise.core.activations import Activation

from .cpu_library import CURVE_NUMBERS, activation_number, call, threads
from .cpu_tensors import as_parameters, in_dtype_of, new_table, resolved, room, span
from .huge_pages import empty_like
from .protocols import SquashGradients


def squash(
    x: Tensor,
    dim: int,
    curve: str,
    alpha: Tensor,
    shift: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    activation: Activation | None,
) -> Tensor:
    """See `Squashing.squash`."""
    x, residual = resolved(x), None if residual is None else resolved(residual)
    y = empty_like(x)
    weight, bias, kept = as_parameters(x.dtype, weight, bias)
    given = *span(x), *span(residual), *span(weight), *span(bias), kept, activation_number(activation)
    call("nw_squash", x.dtype, *_sizes(x, dim), *_constants(curve, alpha, shift), *given, *room(y))
    return y


def squash_backward(
    grad_y: Tensor,
    x: Tensor,
    dim: int,
    curve: str,
    alpha: Tensor,
    shift: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    activation: Activation | None,
    needs: tuple[bool, bool],
) -> SquashGradients:
    """See `Squashing.squash_backward`."""
    grad_y, x, residual = resolved(grad_y), resolved(x), None if residual is None else resolved(residual)
    grad_x = empty_like(x) if needs[0] else None
    # Without an activation the gradient of the residual is grad_y itself.
    grad_residual = None if not needs[1] else grad_y if activation is None else empty_like(x)
    read, other, kept = as_parameters(x.dtype, weight, bias)
    grad_weight, grad_bias = (None if p is None else torch.empty_like(p) for p in (read, other))
    scalars = new_table((2,))
    given = *span(grad_y), *span(x), *span(residual), *span(read), *span(other), kept, activation_number(activation)
    written = *room(grad_x), *room(None if activation is None else grad_residual), *room(grad_weight), *room(grad_bias)
    sizes = *_sizes(x, dim), *_constants(curve, alpha, shift)
    call("nw_squash_backward", x.dtype, *sizes, *given, *written, *room(scalars))
    of_alpha = scalars[0].to(alpha.dtype).view(alpha.shape)
    of_shift = None if shift is None else scalars[1].to(shift.dtype).view(shift.shape)
    return grad_x, grad_residual, of_alpha, of_shift, in_dtype_of(weight, grad_weight), in_dtype_of(bias, grad_bias)


def _sizes(x: Tensor, dim: int) -> tuple[int, int, int, int]:
    shape = x.shape
    return shape[:dim].numel(), shape[dim], shape[dim + 1 :].numel(), threads()


def _constants(curve: str, alpha: Tensor, shift: Tensor | None) -> tuple[int, float, float]:
    return CURVE_NUMBERS[curve], alpha.item(), 0.0 if shift is None else shift.item()
