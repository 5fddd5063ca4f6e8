"""The kernels in C++, compiled on first use and bound with ctypes; `reference.py` is their specification."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from normwise.core.activations import Activation
from normwise.core.moments import Moments, statistics_dtype

from .cpu_formulas import normalize as normalize
from .cpu_formulas import normalize_backward as normalize_backward
from .cpu_formulas import prepare as prepare
from .cpu_formulas import run as run
from .cpu_library import ELEMENTS, activation_number, call, kernels, pointer
from .cpu_responses import respond as respond
from .cpu_responses import respond_backward as respond_backward
from .cpu_responses import respond_reduce as respond_reduce
from .cpu_rows import columns as columns
from .cpu_rows import columns_backward as columns_backward
from .cpu_rows import parameter
from .cpu_rows import rows as rows
from .cpu_rows import rows_backward as rows_backward
from .cpu_tensors import Tables, dense, like, shape_of
from .huge_pages import empty_like

name = "cpu"


def unavailable() -> str | None:
    """Why this backend cannot be used on this machine; None where it can. The first call compiles the kernels."""
    return kernels(torch.float32)[1]


def serves(x: Tensor) -> bool:
    """Whether the kernels take this tensor: a plain one on the CPU with something in it."""
    return (
        type(x) in (Tensor, torch.nn.Parameter)
        and x.device.type == "cpu"
        and x.layout == torch.strided
        and x.dtype in ELEMENTS
        and x.numel() > 0
        and kernels(x.dtype)[1] is None
    )


def moments(x: Tensor, mask: Tensor | None) -> Moments:
    """See `reference.moments`."""
    x, last = dense(x)
    samples, channels = x.shape[:2]
    mean, var = torch.empty(2, samples, channels, dtype=torch.float64).unbind()
    count = None if mask is None else torch.empty(samples, 1, dtype=torch.float64)
    mask = None if mask is None else mask.contiguous()
    call("nw_moments", x.dtype, *shape_of(x, last), x.data_ptr(), pointer(mask), *map(pointer, (mean, var, count)))
    return Moments(mean, var, math.prod(x.shape[2:]) if count is None else count)


def apply(
    x: Tensor,
    mean: Tensor,
    scale: Tensor,
    shift: Tensor,
    residual: Tensor | None,
    activation: Activation | None,
) -> Tensor:
    """See `reference.apply`."""
    if residual is not None and residual.dtype != x.dtype:
        wide = (t.to(mean.dtype) for t in (x, residual))
        return apply(next(wide), mean, scale, shift, next(wide), activation).to(x.dtype)
    x, last = dense(x)
    residual = like(x, residual)
    y = empty_like(x)
    tables = Tables(mean, scale, shift)
    number = activation_number(activation)
    call(
        "nw_apply",
        x.dtype,
        *shape_of(x, last),
        x.data_ptr(),
        pointer(residual),
        *tables.arguments,
        number,
        y.data_ptr(),
    )
    return y


def backward_reduce(
    grad_y: Tensor,
    x: Tensor,
    mean: Tensor,
    scale: Tensor,
    shift: Tensor,
    residual: Tensor | None,
    activation: Activation | None,
) -> tuple[Tensor, Tensor]:
    """See `reference.backward_reduce`."""
    if residual is not None and residual.dtype != x.dtype:
        grad_y, x, residual = (t.to(mean.dtype) for t in (grad_y, x, residual))
    x, last = dense(x)
    grad_y, residual = like(x, grad_y), like(x, residual)
    sums = torch.empty(2, *x.shape[:2], dtype=mean.dtype).unbind()
    tables = Tables(mean, scale, shift)
    call(
        "nw_backward_reduce",
        x.dtype,
        *shape_of(x, last),
        *map(pointer, (grad_y, x, residual)),
        *tables.arguments,
        activation_number(activation),
        *map(pointer, sums),
    )
    return sums[0], sums[1]


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
    """See `reference.backward_apply`."""
    if residual is not None and residual.dtype != x.dtype:
        kinds = x.dtype, residual.dtype
        grad_y, x, residual = (t.to(mean.dtype) for t in (grad_y, x, residual))
        grads = backward_apply(grad_y, x, mean, scale, shift, residual, activation, slope, offset, mask)
        return grads[0].to(kinds[0]), None if grads[1] is None else grads[1].to(kinds[1])
    x, last = dense(x)
    grad_y, residual = like(x, grad_y), like(x, residual)
    grad_x = empty_like(x)
    grad_residual = None if residual is None else empty_like(x)
    mask = None if mask is None else mask.contiguous()
    tables = Tables(mean, scale, shift, slope, offset)
    call(
        "nw_backward_apply",
        x.dtype,
        *shape_of(x, last),
        *map(pointer, (grad_y, x, residual, mask)),
        *tables.arguments,
        activation_number(activation),
        *map(pointer, (grad_x, grad_residual)),
    )
    return grad_x, grad_residual


def standardize(
    x: Tensor,
    groups: int,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    residual: Tensor | None,
    activation: Activation | None,
    known: Moments | None,
) -> tuple[Tensor, Moments]:
    """``y = f(γ (x - μ)/√(σ² + ε) + β + residual)`` over groups of channels (0: over the batch), and the moments.

    The moments are ``[N, groups]``, or ``[1, C]`` over the batch and where they are known.
    """
    kind = statistics_dtype(x.dtype)
    if residual is not None and residual.dtype != x.dtype:
        y, table = standardize(x.to(kind), groups, weight, bias, eps, residual.to(kind), activation, known)
        return y.to(x.dtype), table
    x, last = dense(x)
    residual = like(x, residual)
    y = empty_like(x)
    weight, bias = parameter(weight, x.dtype), parameter(bias, x.dtype)
    samples, channels = x.shape[:2]
    if known is None:
        table = torch.empty((2, samples, groups) if groups else (2, 1, channels), dtype=torch.float64).unbind()
        count = x.numel() // (samples * groups if groups else channels)
    else:
        table, count = (known.mean.contiguous(), known.var.contiguous()), known.count
    call(
        "nw_standardize",
        x.dtype,
        *(*shape_of(x, last), groups, known is not None, eps),
        *map(pointer, (x, residual, weight, bias)),
        activation_number(activation),
        *map(pointer, (y, *table)),
    )
    return y, Moments(table[0], table[1], count)


def standardize_backward(
    grad_y: Tensor,
    x: Tensor,
    groups: int,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    residual: Tensor | None,
    activation: Activation | None,
    moments: Moments,
    *,
    known: bool,
    values: bool,
) -> tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]:
    """The gradients of x, residual, weight and bias; the first two only where the ``values`` need them."""
    kind = statistics_dtype(x.dtype)
    if residual is not None and residual.dtype != x.dtype:
        wide = (t.to(kind) for t in (grad_y, x, residual))
        rest = (activation, moments)
        found = standardize_backward(
            next(wide), next(wide), groups, weight, bias, eps, next(wide), *rest, known=known, values=values
        )
        kinds = (x.dtype, residual.dtype)
        grads = [None if g is None else g.to(k) for g, k in zip(found[:2], kinds, strict=True)]
        return grads[0], grads[1], found[2], found[3]
    x, last = dense(x)
    grad_y, residual = like(x, grad_y), like(x, residual)
    wide_weight, wide_bias = parameter(weight, x.dtype), parameter(bias, x.dtype)
    grad_x = empty_like(x) if values else None
    grad_residual = empty_like(x) if values and residual is not None else None
    grad_weight, grad_bias = (None if p is None else torch.empty(p.shape, dtype=kind) for p in (weight, bias))
    call(
        "nw_standardize_backward",
        x.dtype,
        *(*shape_of(x, last), groups, known, eps),
        *map(pointer, (grad_y, x, residual, wide_weight, wide_bias)),
        activation_number(activation),
        *map(pointer, (moments.mean, moments.var, grad_x, grad_residual, grad_weight, grad_bias)),
    )
    if weight is not None and grad_weight is not None:
        grad_weight = grad_weight.to(weight.dtype)
    if bias is not None and grad_bias is not None:
        grad_bias = grad_bias.to(bias.dtype)
    return grad_x, grad_residual, grad_weight, grad_bias
