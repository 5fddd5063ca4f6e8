"""The kernels in C++, compiled on first use and bound with ctypes; `reference.py` is their specification."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from normwise.core.activations import Activation
from normwise.core.layout import PLAIN
from normwise.core.moments import Moments

from .cpu_dense_rows import dense_rows as dense_rows
from .cpu_formulas import normalize as normalize
from .cpu_formulas import normalize_backward as normalize_backward
from .cpu_formulas import prepare as prepare
from .cpu_formulas import run as run
from .cpu_library import ELEMENTS, activation_number, call, kernels, ready
from .cpu_modulated import modulated_rows as modulated_rows
from .cpu_modulated import modulated_rows_backward as modulated_rows_backward
from .cpu_responses import respond as respond
from .cpu_responses import respond_backward as respond_backward
from .cpu_responses import respond_reduce as respond_reduce
from .cpu_rows import columns as columns
from .cpu_rows import columns_backward as columns_backward
from .cpu_rows import row_statistics as row_statistics
from .cpu_rows import rows as rows
from .cpu_rows import rows_backward as rows_backward
from .cpu_rows import rows_of_sum as rows_of_sum
from .cpu_rows import rows_of_sum_backward as rows_of_sum_backward
from .cpu_running import remember as remember
from .cpu_running import remembers as remembers
from .cpu_squash import squash as squash
from .cpu_squash import squash_backward as squash_backward
from .cpu_standardize import standardization as standardization
from .cpu_standardize import standardize as standardize
from .cpu_standardize import standardize_backward as standardize_backward
from .cpu_tensors import Tables, dense, matched, new_table, of_bytes, room, shape_of, span
from .huge_pages import empty_like

name = "cpu"


def unavailable() -> str | None:
    """The reason why this backend cannot be used on this machine, or None. The first call compiles the kernels."""
    return kernels(torch.float32)[1]


def threaded() -> bool | None:
    """Whether the kernels can use more than one thread; None without kernels."""
    functions, _ = kernels(torch.float32)
    return bool(functions["nw_threaded"]()) if functions else None


def serves(x: Tensor) -> bool:
    """Whether the kernels support this tensor: a plain one on the CPU that is not empty.

    False while they are being compiled; the first call starts the compilation.
    """
    return (
        type(x) in PLAIN
        and x.is_cpu
        and x.layout is torch.strided
        and x.dtype in ELEMENTS
        and x.numel() > 0
        and ready(x.dtype)
    )


def moments(x: Tensor, mask: Tensor | None) -> Moments:
    """See `reference.moments`."""
    x, last = dense(x)
    samples, channels = x.shape[:2]
    mean, var = new_table((2, samples, channels)).unbind()
    count = None if mask is None else new_table((samples, 1))
    mask = of_bytes(mask)
    call("nw_moments", x.dtype, *shape_of(x, last), *span(x), *span(mask), *room(mean), *room(var), *room(count))
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
    residual = matched(x, residual)
    y = empty_like(x)
    tables = Tables(x.dtype, mean, scale, shift)
    call(
        "nw_apply",
        x.dtype,
        *shape_of(x, last),
        *span(x),
        *span(residual),
        *tables.arguments,
        activation_number(activation),
        *room(y),
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
    grad_y, residual = matched(x, grad_y), matched(x, residual)
    sums = mean.new_empty(2, *x.shape[:2]).unbind()
    tables = Tables(x.dtype, mean, scale, shift)
    call(
        "nw_backward_reduce",
        x.dtype,
        *shape_of(x, last),
        *span(grad_y),
        *span(x),
        *span(residual),
        *tables.arguments,
        activation_number(activation),
        *room(sums[0]),
        *room(sums[1]),
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
    grad_y, residual = matched(x, grad_y), matched(x, residual)
    grad_x = empty_like(x)
    grad_residual = None if residual is None else empty_like(x)
    mask = of_bytes(mask)
    tables = Tables(x.dtype, mean, scale, shift, slope, offset)
    call(
        "nw_backward_apply",
        x.dtype,
        *shape_of(x, last),
        *span(grad_y),
        *span(x),
        *span(residual),
        *span(mask),
        *tables.arguments,
        activation_number(activation),
        *room(grad_x),
        *room(grad_residual),
    )
    return grad_x, grad_residual
