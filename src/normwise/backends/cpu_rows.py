"""The kernels of `cpu.py` that normalize neighbours: rows over their width, positions over their channels."""

from __future__ import annotations

import torch
from torch import Tensor

from normwise.core.activations import Activation

from .cpu_library import activation_number, call_packed, threads
from .cpu_tensors import Span, as_parameters, in_dtype_of, matched, new_table, resolved, room, span
from .huge_pages import empty_like
from .protocols import Gradients, RowTables, StandardizationGradients

_NULL = (0, 0)
#: Which gradients are needed: of x, residual, weight and bias.
Needs = tuple[bool, bool, bool, bool]


def rows(
    x: Tensor,
    width: int,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    center: bool,
    keep: bool,
    residual: Tensor | None = None,
    activation: Activation | None = None,
) -> tuple[Tensor, RowTables]:
    """See `Rows.rows`; the kept table holds the rows' μ and 1/√(σ² + ε) in fp64. Without ``center``, μ is 0."""
    sizes, rest = (x.numel() // width, width), (weight, bias, eps, center, keep, residual, activation)
    return _forward("nw_rows", x, sizes, sizes[:1], (*_NULL, *_NULL), *rest)


def rows_of_sum(
    x: Tensor,
    added: Tensor,
    width: int,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    center: bool,
    keep: bool,
) -> tuple[Tensor, Tensor, RowTables]:
    """See `RowsOfSums.rows_of_sum`."""
    sizes, added = (x.numel() // width, width), resolved(added)
    total = empty_like(added)
    beside = (*span(added), *room(total))
    y, tables = _forward("nw_rows", x, sizes, sizes[:1], beside, weight, bias, eps, center, keep, None, None)
    return y, total, tables


def rows_backward(
    grad_y: Tensor,
    x: Tensor,
    width: int,
    weight: Tensor | None,
    bias: Tensor | None,
    tables: RowTables,
    center: bool,
    needs: Needs,
    residual: Tensor | None = None,
    activation: Activation | None = None,
    flow: Tensor | None = None,
) -> StandardizationGradients:
    """See `Rows.rows_backward`."""
    sizes, rest = (x.numel() // width, width), (weight, bias, tables, center, needs, residual, activation, flow)
    return _backward("nw_rows_backward", grad_y, x, sizes, _NULL, *rest)


def rows_of_sum_backward(
    grad_y: Tensor,
    grad_sum: Tensor,
    total: Tensor,
    width: int,
    weight: Tensor | None,
    bias: Tensor | None,
    tables: RowTables,
    center: bool,
    needs: tuple[bool, bool, bool],
) -> Gradients:
    """See `RowsOfSums.rows_of_sum_backward`."""
    sizes, grad_sum = (total.numel() // width, width), resolved(grad_sum)
    rest = (weight, bias, tables, center, (needs[0], False, *needs[1:]), None, None, None)
    grad_x, _, grad_weight, grad_bias = _backward("nw_rows_backward", grad_y, total, sizes, span(grad_sum), *rest)
    return grad_x, grad_weight, grad_bias


def columns(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    center: bool,
    keep: bool,
    residual: Tensor | None = None,
    activation: Activation | None = None,
) -> tuple[Tensor, RowTables]:
    """See `Rows.columns`."""
    sizes, rest = _planes(x), (weight, bias, eps, center, keep, residual, activation)
    return _forward("nw_columns", x, sizes, (sizes[0], sizes[2]), (), *rest)


def columns_backward(
    grad_y: Tensor,
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    tables: RowTables,
    center: bool,
    needs: Needs,
    residual: Tensor | None = None,
    activation: Activation | None = None,
    flow: Tensor | None = None,
) -> StandardizationGradients:
    """See `Rows.columns_backward`."""
    rest = (weight, bias, tables, center, needs, residual, activation, flow)
    return _backward("nw_columns_backward", grad_y, x, _planes(x), (), *rest)


def row_statistics(tables: RowTables) -> tuple[Tensor, Tensor]:
    """See `Rows.row_statistics`."""
    (table,) = tables
    assert table is not None
    mean, rstd = table.unbind()
    return mean, rstd


def _planes(x: Tensor) -> tuple[int, int, int]:
    samples, channels = x.shape[:2]
    return samples, channels, x.numel() // (samples * channels)


def _forward(
    kernel: str,
    x: Tensor,
    sizes: tuple[int, ...],
    of_table: tuple[int, ...],
    beside: tuple[int, ...],
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    center: bool,
    keep: bool,
    residual: Tensor | None,
    activation: Activation | None,
) -> tuple[Tensor, RowTables]:
    x, y = resolved(x), empty_like(x)
    table = new_table((2, *of_table)) if keep else None
    # Kept in variables, so that a converted parameter lives until the kernel has read it: its address keeps nothing.
    weight, bias, kept = as_parameters(x.dtype, weight, bias)
    residual = matched(x, residual)
    given = *span(x), *beside, *span(residual), *span(weight), *span(bias), kept, activation_number(activation)
    call_packed(kernel, x.dtype, *sizes, threads(), center, eps, *given, *room(y), *room(table))
    return y, (table,)


def _backward(
    kernel: str,
    grad_y: Tensor,
    x: Tensor,
    sizes: tuple[int, ...],
    beside: Span | tuple[()],
    weight: Tensor | None,
    bias: Tensor | None,
    tables: RowTables,
    center: bool,
    needs: Needs,
    residual: Tensor | None,
    activation: Activation | None,
    flow: Tensor | None,
) -> StandardizationGradients:
    grad_y, x, residual = resolved(grad_y), resolved(x), matched(x, residual)
    grad_x = empty_like(x) if needs[0] else None
    # Without an activation the gradient of the residual is grad_y itself.
    grad_residual = None if not needs[1] else grad_y if activation is None else empty_like(x)
    read, other, kept = as_parameters(x.dtype, weight, bias)
    grad_weight = None if read is None or not needs[2] else torch.empty_like(read)
    grad_bias = None if other is None or not needs[3] else torch.empty_like(other)
    given = *span(grad_y), *span(x), *beside, *span(residual), *span(read), *span(other), kept
    middle = activation_number(activation), *span(tables[0]), *span(flow)
    written = *room(grad_x), *room(None if activation is None else grad_residual), *room(grad_weight), *room(grad_bias)
    call_packed(kernel, x.dtype, *sizes, threads(), center, *given, *middle, *written)
    return grad_x, grad_residual, in_dtype_of(weight, grad_weight), in_dtype_of(bias, grad_bias)
