"""Any formula, by its recorded program or by autograd, between two passes of a backend's kernels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from normwise.backends import Backend, Remembering, offering, reference, select, tuning_of
from normwise.core.activations import Activation, activation_named
from normwise.core.formulas import Formula
from normwise.core.layout import check_memory, in_layout_of
from normwise.core.moments import Moments, statistics_dtype, widen

from ..autograd import Gradients, Parameters, Pass, PassCall
from ..context import Context
from ..formula.output_step import OutputStep, output_step
from ..formula.recorded import recorded_run
from ..formula.tiny_graph import TinyGraph, wide
from ..request import Request, layout_of
from . import plain


class Run(Protocol):
    """One pass over a tensor, to be run once and differentiated."""

    #: An activation that no kernel fuses; the caller applies it afterwards.
    behind: Activation | None
    #: Whether it runs in the dtype of the statistics, because an operation follows.
    widened: bool
    #: The statistics in the formula's result, otherwise the table; set by `forward`, without a gradient.
    statistics: Moments

    def forward(self, x: Tensor, residual: Tensor | None, parameters: Sequence[Tensor | None]) -> Tensor: ...

    def backward(
        self, grad_y: Tensor, x: Tensor, residual: Tensor | None, *, values: bool
    ) -> tuple[Tensor | None, Tensor | None, list[Tensor | None]]:
        """The gradients of x and residual, if ``values`` is true, and of the parameters, perhaps in a wider dtype."""
        ...


class ByFormula(Pass):
    """The formula on the table of moments, between two passes over the tensor."""

    name = "the formula between two passes"

    def __init__(self, request: Request, backend: Backend, *, graph: bool) -> None:
        self.backend, self.graph = backend, graph
        self.formula, self.activation = request.formula, activation_named(request.activation)
        self.memory = offering(backend, Remembering)  # type: ignore[type-abstract]
        self.remembers = request.memory is not None and self.memory is not None
        #: Whether mean and variance are results with a gradient, besides ``y``.
        self.stating = graph and request.differentiable and request.known is None

    def run(self, request: Request) -> tuple[Tensor, Any]:
        y, run = super().run(request)
        if self.stating:
            y, *stated = y
            run.statistics = run.statistics._replace(mean=stated[0], var=stated[1])
        if run.behind is not None:
            y = run.behind.function(y).to(request.x.dtype)
        return y, run

    def forward(self, call: PassCall, x: Tensor, residual: Tensor | None, mask: Tensor | None, p: Parameters) -> Any:
        known = None if call.known is None else plain.as_table(call.known, x)
        what = (self.backend, self.formula, x, residual, mask, known, tuple(p), self.activation)
        run: Run | None = None if self.stating else recorded_run(*what, differentiable=self.graph)
        if run is None:
            run = GraphRun(self.backend, self.formula, mask, known, self.activation, differentiable=self.graph)
        call.kept = run
        y = run.forward(x, residual, p)
        return (y, run.statistics.mean, run.statistics.var) if self.stating else y

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
        check_memory(x, residual, mask, *p)
        run = call.kept
        if self.stating:
            grad_y, *run.grad_statistics = grad_y
        values = needs[0] or needs[1]
        wide = (widen(x), None if residual is None else widen(residual)) if run.widened else (x, residual)
        grad_x, grad_residual, gradients = run.backward(grad_y, *wide, values=values)
        found = zip((grad_x, grad_residual, *gradients), (x, residual, *p), strict=True)
        return tuple(None if g is None or t is None else g.to(t.dtype) for g, t in found)

    def plainly(
        self, call: PassCall, mask: Tensor | None, x: Tensor, residual: Tensor | None, *p: Tensor | None
    ) -> Any:
        # An activation that follows the pass is not part of it.
        name = None if self.activation is None or call.kept.behind is not None else self.activation.name
        y, statistics = plain.planes(Request(x, self.formula, p, name, residual, mask, call.kept.given))
        y = widen(y) if call.kept.widened else y
        return (y, statistics.mean, statistics.var) if self.stating else y

    def statistics(self, _request: Request, kept: Run) -> Moments:
        return kept.statistics

    def remember(self, request: Request, kept: Run) -> bool:
        """Update the memory; whether it was updated."""
        mean, var, count = kept.statistics
        running, dtype = request.memory, request.x.dtype
        assert running is not None
        assert self.memory is not None
        if isinstance(count, Tensor) or count < 2 or mean.shape[0] != 1 or mean.dtype is not torch.float64:
            return False
        if not (mean.is_contiguous() and var.is_contiguous() and self.memory.remembers(dtype, running)):
            return False
        return self.memory.remember(dtype, running, mean, var, count)


def bind(request: Request, context: Context) -> ByFormula | str:
    """The way for a kind of call, or the reason why it does not serve."""
    if context.plain:
        return "the operations are traced by a compiler, an exporter or a transform"
    if request.view.over != "planes":
        return "it takes planes only"
    watched = request.residual is not None and context.watched
    return ByFormula(request, reference if watched else _backend(request, context), graph=context.graph)


def _backend(request: Request, context: Context) -> Backend:
    """On a GPU the kernels are used only where they were measured to be faster."""
    x = request.x
    if not x.is_cuda or context.forced is not None or (tuning := tuning_of(x)) is None:
        return select(x)
    verdict = tuning.verdict("formula", layout_of(x), context.graph, x.numel())
    return select(x) if verdict is not None and verdict.kernels else reference


class GraphRun:
    """A run (see `Run`) of the formula by autograd."""

    def __init__(
        self,
        backend: Backend,
        formula: Formula,
        mask: Tensor | None,
        given: Moments | None,
        activation: Activation | None,
        *,
        differentiable: bool,
    ) -> None:
        self.backend, self.formula, self.mask, self.given = backend, formula, mask, given
        self.activation, self.differentiable = activation, differentiable
        self.behind: Activation | None = None
        self.widened = False
        #: Gradients of mean and variance, where the statistics have one.
        self.grad_statistics: Sequence[Tensor] = ()

    def forward(self, x: Tensor, residual: Tensor | None, parameters: Sequence[Tensor | None]) -> Tensor:
        check_memory(x, *parameters)
        with torch.no_grad():
            table = self.backend.moments(x.detach(), self.mask) if self.given is None else self.given.detached()
        self.step = self._step(x, table, parameters)
        if self.step.behind is not None:
            self.activation, self.behind = None, self.step.behind
            self.widened = statistics_dtype(x.dtype) is not x.dtype
        self.statistics = (table if self.step.statistics is None else self.step.statistics).detached()
        return self.step.apply(widen(x) if self.widened else x, residual)

    def _step(self, x: Tensor, table: Moments, parameters: Sequence[Tensor | None]) -> OutputStep:
        what = (self.backend, self.formula, x, table, parameters, self.activation)
        if self.differentiable:
            self.graph = TinyGraph(*what, measured=self.given is None)
            return self.graph.step
        return output_step(self.backend, self.formula(table, *wide(parameters, x)), table.mean, x, self.activation)

    def backward(
        self, grad_y: Tensor, x: Tensor, residual: Tensor | None, *, values: bool
    ) -> tuple[Tensor | None, Tensor | None, list[Tensor | None]]:
        grad_y = in_layout_of(x, grad_y)
        pulled = self.graph.pull(self.step.reduce(grad_y, x, residual), self.grad_statistics)
        pair: tuple[Tensor | None, Tensor | None] = (None, None)
        if values:
            pair = self.step.differentiate(grad_y, x, residual, (pulled.slope, pulled.offset, self.mask))
        return pair[0], pair[1], pulled.parameters
