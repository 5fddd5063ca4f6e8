"""Every request by differentiable, traceable PyTorch operations, without kernels or fusion."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from normwise.backends import reference
from normwise.core import formulas
from normwise.core.activations import activation_named
from normwise.core.history import without_history
from normwise.core.layout import check_memory, in_layout_of
from normwise.core.moments import Moments, widen
from normwise.core.precision import table_dtype

from ..context import Context
from ..epilogue import finish, narrowed, to_be_finished
from ..formula.output_step import output_step
from ..formula.tiny_graph import wide
from ..request import BATCH, Request, View, centers
from ..saved import guarded

_OF_EACH_SET = {formulas.modulated_layer_norm: 1.0, formulas.modulated_rms_norm: 1.0, formulas.gated_rms_norm: 0.0}


class Plainly:
    """A way that serves every request: the specification of all others."""

    name = "plain operations"
    remembers = False

    def run(self, request: Request) -> tuple[Any, Moments | None]:
        if request.view.over == "planes":
            return planes(request)
        if request.view.over == "sums":
            return rows_of_sums(request), None
        x = to_be_finished(request.x, request.activation, request.residual)
        y, moments = rows(request._replace(x=x))
        y = guarded(y, x, request.mask, request.parameters[0])
        return narrowed(finish(y, request.activation, request.residual), request.x), moments

    def statistics(self, request: Request, kept: Moments | None) -> Moments:
        assert kept is not None
        return kept if request.differentiable else kept.detached()


def bind(_request: Request, _context: Context) -> Plainly:
    """The way for a kind of call."""
    return Plainly()


def planes(request: Request) -> tuple[Tensor, Moments]:
    """``y``, and the statistics with their autograd history."""
    x, residual, parameters = request.x, request.residual, request.parameters
    check_memory(x, *parameters)
    table = Moments.of(x, request.mask) if request.known is None else as_table(request.known, x)
    found = request.formula(table, *wide(parameters, x))
    step = output_step(reference, found, table.mean, x, activation_named(request.activation))
    if step.behind is None:
        y = step.apply(x, residual)
    else:  # rounded once, at the end
        y = step.behind.function(step.apply(widen(x), residual)).to(x.dtype)
    return y, table if step.statistics is None else step.statistics


def as_table(known: Moments, x: Tensor) -> Moments:
    """Known statistics as a copied table, without autograd history, that broadcasts against ``[N, C]``."""
    if known.mean.dim() != 1:
        return known.without_history()
    check_memory(known.mean, known.var)
    dtype = table_dtype(x)
    mean, var = (without_history(t).to(dtype, copy=True).unsqueeze(0) for t in (known.mean, known.var))
    return Moments(mean, var, known.count)


def moments_of_pools(request: Request, groups: int, table: Tensor) -> Moments:
    """A kernel's table in the shape that the formula returns: one entry of each group for each of its channels."""
    x, (mean, var) = request.x, table.unbind()
    channels = x.shape[1]
    if groups not in (BATCH, channels) and request.formula.func is not formulas.layer_norm:  # type: ignore[attr-defined]
        mean, var = (t.repeat_interleave(channels // groups, dim=1) for t in (mean, var))
    return Moments(mean, var, x.numel() // max(x.shape[0] * groups if groups else channels, 1))


def rows(request: Request) -> tuple[Tensor, Moments | None]:
    r"""Rows and pixels: :math:`\gamma (x - \mu)/\sqrt{\sigma^2 + \epsilon} + \beta`, or by the root mean square.

    The second result holds the moments of each row or pixel if the request measures them.
    """
    x, view = request.x, request.view
    if view.over == "pixels":
        y, moments = _row(request, x.movedim(1, -1), 1)
        if moments is not None:
            moments = moments._replace(mean=moments.mean.movedim(-1, 1), var=moments.var.movedim(-1, 1))
        return as_maps(y, x), moments
    return _row(request, x, view.dims)


def rows_of_sums(request: Request) -> tuple[Tensor, Tensor]:
    """The normalized rows of ``x + residual``, and the sum."""
    check_memory(request.x, request.residual)
    total = request.x + request.residual  # type: ignore[operator]
    of_rows = request._replace(x=total, residual=None, view=View("rows", request.view.dims))
    y, _ = Plainly().run(of_rows)
    return y, total


def as_maps(y: Tensor, x: Tensor) -> Tensor:
    """Rows of channels ``[N, *space, C]`` in the shape and layout of ``x``, ``[N, C, *space]``."""
    y = y.movedim(x.dim() - 1, 1)  # the older ONNX exporter counts dimensions from the front
    return y if y.stride() == x.stride() else in_layout_of(x, y)


def _row(request: Request, x: Tensor, dims: int) -> tuple[Tensor, Moments | None]:
    """Normalize the last ``dims`` dimensions; also their moments if the request measures them."""
    weight, bias = request.parameters
    eps: Any = request.formula.keywords["eps"]  # type: ignore[attr-defined]
    mask = request.mask if request.view.over == "rows" else None
    values, mean = widen(x), None
    if centers(request):
        mean = _mean(values, mask, dims)
        values = values - mean
        # A second time, to remove what rounding a large mean left over.
        rest = _mean(values, mask, dims)
        values, mean = values - rest, mean + rest
    var = _mean(values.square(), mask, dims)
    y = values * torch.rsqrt(var + eps)
    check_memory(weight, bias)
    if weight is not None:
        y = y * (formulas.one_plus(weight, y.dtype) if of_each_set(request) else weight)
    y = (y if bias is None else y + bias).to(x.dtype)
    return y, Moments(mean, var, x.shape[-1]) if request.measured and mean is not None else None


def of_each_set(request: Request) -> float | None:
    """The number added to the scale where each set of rows has its own affine map; None where all rows share one."""
    return _OF_EACH_SET.get(request.formula.func)  # type: ignore[attr-defined]


def _mean(values: Tensor, mask: Tensor | None, dims: int) -> Tensor:
    last = tuple(range(-dims, 0))
    if mask is None:
        return values.mean(last, keepdim=True)
    mask = mask.expand_as(values)
    total = torch.where(mask, values, 0).sum(last, keepdim=True)
    return total / mask.sum(last, keepdim=True).clamp_min(1)
