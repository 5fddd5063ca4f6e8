"""The kernels of `cpu.py` that normalize neighbours: rows over their width, positions over their channels."""

from __future__ import annotations

import torch
from torch import Tensor

from .cpu_library import call_packed, threads
from .cpu_tensors import as_parameters, in_dtype_of, new_table, resolved, room, span
from .huge_pages import empty_like
from .protocols import Gradients, RowTables

_NULL = (0, 0)


def rows(
    x: Tensor, width: int, weight: Tensor | None, bias: Tensor | None, eps: float, center: bool, keep: bool
) -> tuple[Tensor, RowTables]:
    """See `Rows.rows`; kept is one table, of the rows' μ and 1/√(σ² + ε) in fp64. Without ``center``, μ is 0."""
    sizes = (x.numel() // width, width)
    return _forward("nw_rows", x, sizes, sizes[:1], (*_NULL, *_NULL), weight, bias, eps, center, keep)


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
    y, tables = _forward("nw_rows", x, sizes, sizes[:1], beside, weight, bias, eps, center, keep)
    return y, total, tables


def rows_backward(
    grad_y: Tensor,
    x: Tensor,
    width: int,
    weight: Tensor | None,
    bias: Tensor | None,
    tables: RowTables,
    center: bool,
    needs: tuple[bool, bool, bool],
) -> Gradients:
    """See `Rows.rows_backward`."""
    sizes = (x.numel() // width, width)
    return _backward("nw_rows_backward", grad_y, x, sizes, _NULL, weight, bias, tables, center, needs)


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
    return _backward("nw_rows_backward", grad_y, total, sizes, span(grad_sum), weight, bias, tables, center, needs)


def columns(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, center: bool, keep: bool
) -> tuple[Tensor, RowTables]:
    """See `Rows.columns`."""
    sizes = _planes(x)
    return _forward("nw_columns", x, sizes, (sizes[0], sizes[2]), (), weight, bias, eps, center, keep)


def columns_backward(
    grad_y: Tensor,
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    tables: RowTables,
    center: bool,
    needs: tuple[bool, bool, bool],
) -> Gradients:
    """See `Rows.columns_backward`."""
    return _backward("nw_columns_backward", grad_y, x, _planes(x), (), weight, bias, tables, center, needs)


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
) -> tuple[Tensor, RowTables]:
    x, y = resolved(x), empty_like(x)
    table = new_table((2, *of_table)) if keep else None
    # Named, so that a converted parameter lives until the kernel has read it: an address alone keeps nothing.
    weight, bias, kept = as_parameters(x.dtype, weight, bias)
    tensors = *span(x), *beside, *span(weight), *span(bias), kept, *room(y), *room(table)
    call_packed(kernel, x.dtype, *sizes, threads(), center, eps, *tensors)
    return y, (table,)


def _backward(
    kernel: str,
    grad_y: Tensor,
    x: Tensor,
    sizes: tuple[int, ...],
    beside: tuple[int, ...],
    weight: Tensor | None,
    bias: Tensor | None,
    tables: RowTables,
    center: bool,
    needs: tuple[bool, bool, bool],
) -> Gradients:
    grad_y, x = resolved(grad_y), resolved(x)
    grad_x = empty_like(x) if needs[0] else None
    read, other, kept = as_parameters(x.dtype, weight, bias)
    grad_weight = None if read is None or not needs[1] else torch.empty_like(read)
    grad_bias = None if other is None or not needs[2] else torch.empty_like(other)
    given = *span(grad_y), *span(x), *beside, *span(read), kept, *span(tables[0])
    call_packed(kernel, x.dtype, *sizes, threads(), center, *given, *room(grad_x), *room(grad_weight), *room(grad_bias))
    return grad_x, in_dtype_of(weight, grad_weight), in_dtype_of(bias, grad_bias)
