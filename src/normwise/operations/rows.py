"""Normalization of each row over its trailing dimensions: LayerNorm and RMSNorm of tokens, and of pixels."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from normwise.backends import Rows, rows_for
from normwise.core.arguments import finite_padding
from normwise.core.layout import check_memory, in_layout_of
from normwise.core.moments import statistics_dtype, widen
from normwise.core.tables import check_optional

from . import native, row_kernels
from .choice import kernels
from .epilogue import finish, to_be_finished
from .saved import guarded
from .transforms import needs_graph, plain_operations_wanted, without_autocast

#: Below these numbers of values torch's operators are faster in fp32 (fp64), as in `standardize.NATIVE_BELOW`.
NATIVE_BELOW = {"layer": 1 << 20, "rms": 0}
#: The same where no backward will come.
NATIVE_BELOW_FORWARD = {"layer": 1 << 16, "rms": 0}


def layer_norm(
    x: Tensor,
    shape: tuple[int, ...],
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    *,
    activation: str | None = None,
    residual: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    r""":math:`\gamma (x - \mu)/\sqrt{\sigma^2 + \epsilon} + \beta` over the trailing ``shape`` (σ² biased)."""
    check_optional("LayerNorm", x, shape, weight=weight, bias=bias)
    x, residual = finite_padding(mask, x, residual)
    with without_autocast(x):
        plain = partial(_plain_layer_norm, dims=len(shape), eps=eps, mask=mask)
        # The operator is as fast as a kernel can be, but for the time of the host, and for bf16.
        operator = native.takes(x, mask, weight, bias)
        backend = _backend("layer", x, mask, operator, weight, bias)
        values = to_be_finished(x, activation, residual)
        if backend is not None:
            y = row_kernels.Call(backend, math.prod(shape), eps, True, plain)(values, weight, bias)
        elif operator is not None:
            values, weight, bias = (operator if values is x else native.widened)(x, weight, bias)
            check_memory(values, weight, bias)
            y = guarded(F.layer_norm(values, shape, weight, bias, eps), values, weight)
        else:
            y = guarded(plain(values, weight, bias), values, mask, weight)
        return native.narrowed(finish(y, activation, residual), x)


def _plain_layer_norm(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, dims: int, eps: float, mask: Tensor | None
) -> Tensor:
    values = widen(x)
    centered = values - _mean(values, mask, dims)
    # Once more, for what the rounding of a large mean has left over.
    centered = centered - _mean(centered, mask, dims)
    variance = _mean(centered.square(), mask, dims)
    return _affine(centered * torch.rsqrt(variance + eps), weight, bias).to(x.dtype)


def rms_norm(
    x: Tensor,
    shape: tuple[int, ...],
    weight: Tensor | None,
    eps: float | None,
    *,
    activation: str | None = None,
    residual: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    r""":math:`\gamma x/\sqrt{\overline{x^2} + \epsilon}` over the trailing ``shape``; ε None is torch's."""
    check_optional("RMSNorm", x, shape, weight=weight)
    x, residual = finite_padding(mask, x, residual)
    with without_autocast(x):
        known = _known(eps, x)
        plain = partial(_plain_rms_norm, dims=len(shape), eps=known, mask=mask)
        operator = native.takes(x, mask, weight)
        backend = _backend("rms", x, mask, operator, weight)
        values = to_be_finished(x, activation, residual)
        if backend is not None:
            y = row_kernels.Call(backend, math.prod(shape), known, False, plain)(values, weight, None)
        elif operator is not None:
            values, weight, _ = (operator if values is x else native.widened)(x, weight, None)
            check_memory(values, weight)
            y = guarded(F.rms_norm(values, shape, weight, known), values, weight)
        else:
            y = guarded(plain(values, weight, None), values, mask, weight)
        return native.narrowed(finish(y, activation, residual), x)


def _backend(
    kind: str, x: Tensor, mask: Tensor | None, operator: native.Preparation | None, *parameters: Tensor | None
) -> Rows | None:
    """The backend with row kernels, where it is the fastest way."""
    # Before the size is asked for, which an export may leave open.
    if plain_operations_wanted():
        return None
    if operator is not None and operator is not native.widened and x.numel() < _least(kind, x, parameters):
        return None
    return kernels(rows_for, x, mask, *parameters)


def _least(kind: str, x: Tensor, parameters: tuple[Tensor | None, ...]) -> int:
    below = NATIVE_BELOW if needs_graph(x, *parameters) else NATIVE_BELOW_FORWARD
    return below[kind]


def _known(eps: float | None, x: Tensor) -> float:
    return torch.finfo(statistics_dtype(x.dtype)).eps if eps is None else eps


def _plain_rms_norm(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, dims: int, eps: float, mask: Tensor | None
) -> Tensor:
    values = widen(x)
    power = _mean(values.square(), mask, dims)
    return _affine(values * torch.rsqrt(power + eps), weight, bias).to(x.dtype)


def layer_norm_of_pixels(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    *,
    activation: str | None = None,
    residual: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """`layer_norm` over the channels at each position of ``[N, C, *space]``."""
    check_optional("LayerNorm2d", x, x.shape[1:2], weight=weight, bias=bias)

    def over_channels(rows: Tensor) -> Tensor:
        return layer_norm(rows, tuple(x.shape[1:2]), weight, bias, eps)

    def plain(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
        return _plain_layer_norm(x.movedim(1, -1), weight, bias, 1, eps, None).movedim(-1, 1)

    call = partial(row_kernels.Call, width=0, eps=eps, center=True, plain=plain)
    return _by_pixel(over_channels, call, (weight, bias), x, activation, residual, mask)


def rms_norm_of_pixels(
    x: Tensor,
    weight: Tensor | None,
    eps: float | None,
    *,
    activation: str | None = None,
    residual: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """`rms_norm` over the channels at each position of ``[N, C, *space]``."""
    check_optional("RMSNorm2d", x, x.shape[1:2], weight=weight)

    def over_channels(rows: Tensor) -> Tensor:
        return rms_norm(rows, tuple(x.shape[1:2]), weight, eps)

    known = _known(eps, x)

    def plain(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
        return _plain_rms_norm(x.movedim(1, -1), weight, bias, 1, known, None).movedim(-1, 1)

    call = partial(row_kernels.Call, width=0, eps=known, center=False, plain=plain)
    return _by_pixel(over_channels, call, (weight, None), x, activation, residual, mask)


def _by_pixel(
    over_channels: Callable[[Tensor], Tensor],
    call: Callable[[Rows], row_kernels.Call],
    parameters: tuple[Tensor | None, Tensor | None],
    x: Tensor,
    activation: str | None,
    residual: Tensor | None,
    mask: Tensor | None,
) -> Tensor:
    """No pixel sees another, so a mask has nothing to do but to keep NaN in the padding out of the gradients."""
    x, residual = finite_padding(mask, x, residual)
    maps = not plain_operations_wanted() and x.dim() > 2 and x.is_contiguous()
    backend = kernels(rows_for, x, None, *parameters) if maps else None
    values = to_be_finished(x, activation, residual)
    if backend is not None:
        return native.narrowed(finish(call(backend)(values, *parameters), activation, residual), x)
    y = over_channels(values.movedim(1, -1)).movedim(-1, 1)
    y = y if y.stride() == x.stride() else in_layout_of(x, y)
    return native.narrowed(finish(y, activation, residual), x)


def _mean(values: Tensor, mask: Tensor | None, dims: int) -> Tensor:
    last = tuple(range(-dims, 0))
    if mask is None:
        return values.mean(last, keepdim=True)
    mask = mask.expand_as(values)
    total = torch.where(mask, values, 0).sum(last, keepdim=True)
    return total / mask.sum(last, keepdim=True).clamp_min(1)


def _affine(y: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    check_memory(weight, bias)
    if weight is not None:
        y = y * weight
    return y if bias is None else y + bias
