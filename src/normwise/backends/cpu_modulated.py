"""The kernels of `cpu.py` that normalize rows in sets, each set with an affine map of its own."""

from __future__ import annotations

import torch
from torch import Tensor

from .cpu_library import call_packed, threads
from .cpu_tensors import as_parameters, in_dtype_of, new_table, resolved, room, span
from .huge_pages import empty_like
from .protocols import Gradients, RowTables


def modulated_rows(
    x: Tensor,
    width: int,
    per: int,
    scale: Tensor | None,
    shift: Tensor | None,
    plus: float,
    eps: float,
    center: bool,
    keep: bool,
) -> tuple[Tensor, RowTables]:
    """See `ModulatedRows.modulated_rows`; the kept table holds the rows' μ and 1/√(σ² + ε) in fp64."""
    x, y, rows = resolved(x), empty_like(x), x.numel() // width
    table = new_table((2, rows)) if keep else None
    # Kept in variables, so that a converted table lives until the kernel has read it: an address keeps nothing alive.
    scale, shift, kept = as_parameters(x.dtype, scale, shift)
    tensors = *span(x), *span(scale), *span(shift), kept, *room(y), *room(table)
    call_packed("nw_modulated", x.dtype, rows, width, per, threads(), center, plus, eps, *tensors)
    return y, (table,)


def modulated_rows_backward(
    grad_y: Tensor,
    x: Tensor,
    width: int,
    per: int,
    scale: Tensor | None,
    shift: Tensor | None,
    plus: float,
    tables: RowTables,
    center: bool,
    needs: tuple[bool, bool, bool],
) -> Gradients:
    """See `ModulatedRows.modulated_rows_backward`."""
    grad_y, x, rows = resolved(grad_y), resolved(x), x.numel() // width
    grad_x = empty_like(x) if needs[0] else None
    read, other, kept = as_parameters(x.dtype, scale, shift)
    grad_scale = None if read is None or not needs[1] else torch.empty_like(read)
    grad_shift = None if other is None or not needs[2] or per == 1 else torch.empty_like(other)
    given = *span(grad_y), *span(x), *span(read), kept, *span(tables[0])
    wanted = *room(grad_x), *room(grad_scale), *room(grad_shift)
    if grad_x is not None or grad_scale is not None or grad_shift is not None:
        call_packed("nw_modulated_backward", x.dtype, rows, width, per, threads(), center, plus, *given, *wanted)
    if needs[2] and shift is not None and per == 1:
        return grad_x, in_dtype_of(scale, grad_scale), grad_y.to(shift.dtype, copy=True)
    return grad_x, in_dtype_of(scale, grad_scale), in_dtype_of(shift, grad_shift)
