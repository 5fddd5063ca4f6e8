"""Normalization of rows, and of the channels at each pixel, by one kernel forward and one backward."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from normwise.backends import Backend, Rows, RowsOfSums, offering
from normwise.core.activations import activation_named
from normwise.core.layout import as_operators_lay, check_memory
from normwise.core.moments import Moments, statistics_dtype, widen

from ..autograd import Gradients, Parameters, Pass, PassCall
from ..context import Context, needs_graph
from ..epilogue import narrowed
from ..request import Request, View, centers
from . import plain
from .along_dense_rows import AlongDenseRows, as_they_lie
from .by_modulated import AlongModulatedRows, modulated_rows


class AlongRows(Pass):
    """Rows, or the channels at each pixel, by one kernel each way."""

    name = "one kernel each way"
    remembers = False

    def __init__(self, request: Request, backend: Rows, *, graph: bool) -> None:
        self.graph, self.backend, self.formula = graph, backend, request.formula
        self.activation, self.act = request.activation, activation_named(request.activation)
        x, residual, self.pixels = request.x, request.residual, request.view.over == "pixels"
        #: Whether the channels at a pixel are neighbours in memory, so that they are a row.
        self.turned = self.pixels and not (x.dim() > 2 and x.is_contiguous())
        #: Whether the residual has another dtype: then both are widened, and only the end result is rounded.
        self.mixed = residual is not None and residual.dtype is not x.dtype
        self.passes_residual = residual is not None and request.activation is None
        #: Whether mean and variance of each pixel are results with a gradient, besides ``y``.
        self.stating = request.measured
        self.width = x.shape[1] if self.turned else 0 if self.pixels else x.shape[-request.view.dims :].numel()
        self.row_view = View("rows", 1) if self.turned else request.view
        self.eps: Any = request.formula.keywords["eps"]  # type: ignore[attr-defined]
        self.center = centers(request)

    def run(self, request: Request) -> tuple[Tensor, Any]:
        if not (self.turned or self.mixed or self.stating):
            return super().run(request)[0], None
        x, residual, moments = request.x, request.residual, None
        values, other = (widen(x), widen(residual)) if self.mixed and residual is not None else (x, residual)
        if self.turned:
            values, other = values.movedim(1, -1), None if other is None else other.movedim(1, -1)
        y, _ = super().run(request._replace(x=values, residual=other))
        if self.stating:
            y, *stated = y
            mean, var = (t.unsqueeze(1) for t in stated)
            moments = Moments(mean, var, x.shape[1])
        if self.turned:
            y = plain.as_maps(y, x)
        return narrowed(y, x), moments

    def forward(self, call: PassCall, x: Tensor, residual: Tensor | None, mask: Tensor | None, p: Parameters) -> Any:
        given, x, residual = x, _contiguous(x), None if residual is None else _contiguous(residual)
        weight, bias = p
        rest = (weight, bias, self.eps, self.center, self.graph or self.stating, residual, self.act)
        if self.width:
            y, call.kept = self.backend.rows(x, self.width, *rest)
        else:
            y, call.kept = self.backend.columns(x, *rest)
        if self.stating:
            return y, *self._stated(x, call.kept)
        if given is x or self.center or self.turned:
            return y
        return as_operators_lay(given, y)  # torch's own layer_norm is always contiguous, its rms_norm elementwise

    def _stated(self, x: Tensor, tables: Any) -> tuple[Tensor, Tensor]:
        """Mean and variance of each pixel, ``[N, *space]``, in the dtype of the statistics."""
        mean, rstd = self.backend.row_statistics(tables)
        shape = x.shape[:-1] if self.turned else (x.shape[0], *x.shape[2:])
        var = (rstd.double().pow(-2) - self.eps).clamp_min(0)
        return tuple(t.to(statistics_dtype(x.dtype)).reshape(shape) for t in (mean, var))  # type: ignore[return-value]

    def backward(
        self,
        call: PassCall,
        grad_y: Any,
        x: Tensor,
        residual: Tensor | None,
        mask: Tensor | None,
        p: Parameters,
        needs: Sequence[bool],
    ) -> Gradients:
        flow = None
        if self.stating:
            grad_y, *of_statistics = grad_y
            flow = torch.stack([g.double().flatten() for g in of_statistics])
        grad_y, x, residual = grad_y.contiguous(), _contiguous(x), None if residual is None else _contiguous(residual)
        weight, bias = p
        of = needs[0], needs[1], needs[2], needs[3]
        rest = (weight, bias, call.kept, self.center, of, residual, self.act, flow)
        if self.width:
            return self.backend.rows_backward(grad_y, x, self.width, *rest)
        return self.backend.columns_backward(grad_y, x, *rest)

    def plainly(
        self, call: PassCall, mask: Tensor | None, x: Tensor, residual: Tensor | None, *p: Tensor | None
    ) -> Any:
        request = Request(x, self.formula, p, self.activation, residual, measured=self.stating, view=self.row_view)
        y, moments = plain.Plainly().run(request)
        if moments is None:
            return y
        dim = -1 if self.turned else 1
        return y, moments.mean.squeeze(dim), moments.var.squeeze(dim)

    def statistics(self, request: Request, kept: Moments) -> Moments:
        """The moments of each pixel, with a gradient."""
        return kept


class AlongRowsOfSums(Pass):
    """Rows of ``x + residual``, which are added in the same pass that normalizes them."""

    name = "one kernel each way"
    remembers = False
    saves_sum = True

    def __init__(self, request: Request, backend: RowsOfSums, *, graph: bool) -> None:
        self.graph, self.backend, self.formula, self.dims = graph, backend, request.formula, request.view.dims
        self.width = request.x.shape[-self.dims :].numel()
        self.eps: Any = request.formula.keywords["eps"]  # type: ignore[attr-defined]
        self.center = centers(request)

    def forward(
        self, call: PassCall, x: Tensor, residual: Tensor | None, mask: Tensor | None, p: Parameters
    ) -> tuple[Tensor, Tensor]:
        assert residual is not None
        check_memory(x, residual)
        weight, bias = p
        rest = (self.width, weight, bias, self.eps, self.center, self.graph)
        y, total, call.kept = self.backend.rows_of_sum(x.contiguous(), residual.contiguous(), *rest)
        return y, total

    def backward(
        self,
        call: PassCall,
        grad_y: tuple[Tensor, Tensor],
        x: Tensor,
        residual: Tensor | None,
        mask: Tensor | None,
        p: Parameters,
        needs: Sequence[bool],
    ) -> Gradients:
        of_y, of_sum = (g.contiguous() for g in grad_y)
        weight, bias = p
        rest = (self.width, weight, bias, call.kept, self.center, (needs[0] or needs[1], needs[2], needs[3]))
        grads = self.backend.rows_of_sum_backward(of_y, of_sum, x, *rest)
        return grads[0], *grads

    def plainly(
        self, call: PassCall, mask: Tensor | None, x: Tensor, residual: Tensor | None, *p: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        return plain.rows(Request(x, self.formula, p, view=View("rows", self.dims)))[0], x


def bind(
    request: Request, context: Context, backend: Backend
) -> AlongRows | AlongDenseRows | AlongModulatedRows | AlongRowsOfSums | str:
    """The way for a kind of call by the backend that serves x, or the reason why there is none."""
    if request.view.over == "sums":
        return _rows_of_sums(request, backend)
    if plain.of_each_set(request) is not None:
        return modulated_rows(request, backend)
    able = offering(backend, Rows)  # type: ignore[type-abstract]
    if able is None:
        return f"the backend {backend.name!r}, which serves x, has no kernels of rows"
    if request.residual is not None and context.watched:
        return "a mode looks for the addition of the residual"
    way = as_they_lie(request, backend)
    if way is not None:
        return way
    return AlongRows(request, able, graph=needs_graph(request.x, request.residual, *request.parameters))


def _rows_of_sums(request: Request, backend: Backend) -> AlongRowsOfSums | str:
    x, residual = request.x, request.residual
    able = offering(backend, RowsOfSums)  # type: ignore[type-abstract]
    if able is None:
        return f"the backend {backend.name!r}, which serves x, has no kernels of rows of sums"
    if residual is None or residual.dtype is not x.dtype or request.activation is not None:
        return "the terms are of two dtypes, or an activation follows"
    return AlongRowsOfSums(request, able, graph=needs_graph(x, residual, *request.parameters))


def _contiguous(t: Tensor) -> Tensor:
    if t.is_contiguous():
        return t
    check_memory(t)
    return t.contiguous()
