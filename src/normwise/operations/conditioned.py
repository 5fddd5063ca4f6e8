"""Normalization of rows with a condition: rows that are scaled and shifted by it, or multiplied by a gate."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from normwise.core import formulas
from normwise.core.arguments import check_floating
from normwise.core.bound import bound
from normwise.core.formulas import Formula
from normwise.core.layout import check_memory
from normwise.core.moments import widen
from normwise.core.sizes import same
from normwise.core.tables import broadcasts, called, check_optional, check_place

from .context import without_autocast
from .epilogue import finish, narrowed, to_be_finished
from .normalize import run_for_y
from .request import Request, View
from .saved import guarded

_ROWS = View("rows", 1)


def modulated(
    caller: object,
    x: Tensor,
    formula: Formula,
    scale: Tensor | None,
    shift: Tensor | None,
    *,
    activation: str | None = None,
    residual: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """The rows of ``x``, normalized by one of the modulated formulas."""
    tables = _of_rows(caller, x, "scale", scale), _of_rows(caller, x, "shift", shift)
    return run_for_y(Request(x, formula, tables, activation, residual, mask, view=_ROWS))


def _of_rows(caller: object, x: Tensor, name: str, table: Tensor | None) -> Tensor | None:
    """``table`` with as many dimensions as ``x``."""
    if table is None:
        return None
    check_floating(table, f"{called(caller)}: {name}")
    check_place(caller, name, table, x)
    samples, width = x.shape[0], x.shape[-1]
    if same(table.shape, (samples, width)):
        return table.view(samples, *(1,) * (x.dim() - 2), width) if x.dim() > 2 else table
    fits = table.dim() == x.dim() and all(t in (1, size) for t, size in zip(table.shape, x.shape, strict=True))
    if fits and (table.shape[-1] == width):
        return table
    raise ValueError(
        f"{called(caller)}: {name} must be [N, C] = {[samples, width]}, one for each sample, or as x {list(x.shape)} "
        f"with 1 where all share it, received {list(table.shape)}."
    )


def gated(
    caller: object,
    x: Tensor,
    gate: Tensor | None,
    weight: Tensor | None,
    *,
    eps: float,
    groups: int,
    norm_before_gate: bool,
    activation: str | None = None,
    residual: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """Normalize groups of each row by their root mean square, before or after the row is multiplied by a gate."""
    check_optional(caller, x, (x.shape[-1],), weight=weight)
    if gate is not None:
        check_floating(gate, f"{called(caller)}: gate")
        check_place(caller, "gate", gate, x)
        if not same(gate.shape, x.shape):
            raise ValueError(
                f"{called(caller)}: gate must have the shape of x, {list(x.shape)}, received {list(gate.shape)}."
            )
    check_memory(x, gate, weight)
    with without_autocast(x):
        values, factor = to_be_finished(x, activation, residual), None
        # The gate is computed at least in the dtype of the statistics of x, even where it is of a narrower one.
        opened = None
        if gate is not None:
            opened = guarded(F.silu(gate.to(torch.promote_types(gate.dtype, widen(x).dtype))), gate)
        if opened is not None and norm_before_gate:
            factor = opened.to(widen(x).dtype)
            factor = factor if weight is None else guarded(factor * weight, weight)
        elif opened is not None:
            values = guarded(widen(x) * opened, x)
        behind = weight if factor is None and groups > 1 else None  # γ differs from group to group
        values = values if behind is None else widen(values)
        y = _of_groups(values, factor, weight if factor is None and groups == 1 else None, mask, groups, eps)
        y = y if behind is None else guarded(y * behind, behind)
        return narrowed(finish(y, activation, residual), x)


def _of_groups(
    x: Tensor, factor: Tensor | None, weight: Tensor | None, mask: Tensor | None, groups: int, eps: float
) -> Tensor:
    """Normalize each group of a row by its root mean square, times ``factor`` and ``weight``."""
    formula = bound(formulas.rms_norm if factor is None else formulas.gated_rms_norm, eps=eps)
    if mask is not None and not (mask.dtype is torch.bool and broadcasts(mask.shape, x.shape)):
        raise ValueError(
            f"mask must be boolean and broadcast against the input {list(x.shape)}, received {list(mask.shape)} of "
            f"{mask.dtype}."
        )
    split = (*x.shape[:-1], groups, x.shape[-1] // groups)
    if groups > 1:
        x, factor = x.reshape(split), None if factor is None else factor.reshape(split)
        mask = None if mask is None else mask.expand(*split[:-2], -1).reshape(split)
    y = run_for_y(Request(x, formula, (weight if factor is None else factor, None), mask=mask, view=_ROWS))
    return y.flatten(-2) if groups > 1 else y
