"""Standardization by a backend that does all of it in one kernel, forward and backward: pools, rows, pixels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from normwise.backends import Backend, Fused, Remembering, Rows, RowsOfSums, offering, select
from normwise.core.activations import activation_named
from normwise.core.kinds import kinds_of
from normwise.core.layout import PLAIN, as_operators_lay, check_memory
from normwise.core.moments import Moments

from . import plain
from .autograd import Call, Forms, Gradients, Parameters, Pass, check_unchanged, forms_of
from .by_modulated import AlongModulatedRows, modulated_rows
from .context import Context, needs_graph
from .epilogue import finish, narrowed, to_be_finished
from .request import NO_POOL, Request, View


class OverPools(Pass):
    """Plain standardization over the batch, over groups of channels, or by known statistics."""

    name = "one kernel each way"
    looks_itself = True

    def __init__(self, request: Request, backend: Fused, groups: int, *, graph: bool) -> None:
        x, known = request.x, request.known
        self.graph, self.groups, self.by_known = graph, groups, known is not None
        self.formula, self.activation = request.formula, request.activation
        given = (x, request.residual, request.mask, *request.parameters)
        #: Of all calls of this kind.
        self.of_kind, self.saved = forms_of(*given), kinds_of(*(t for t in given if t is not None))
        self.keep = graph or ((request.measured or request.memory is not None) and known is None)
        act = activation_named(request.activation)
        weight, bias = request.parameters
        eps: Any = request.formula.keywords["eps"]  # type: ignore[attr-defined]
        given = None if known is None else (known.mean, known.var)
        self.kernel = backend.standardization(x, groups, weight, bias, eps, request.residual, act, given)
        self.count = x.numel() // max(x.shape[0] * groups if groups else x.shape[1], 1)
        self.memory = None if request.memory is None else _memory_of(backend, request)
        self.remembers = self.memory is not None

    def forward(self, call: Call, x: Tensor, residual: Tensor | None, mask: Tensor | None, p: Parameters) -> Tensor:
        known = call.known
        given = None if known is None else (known.mean, known.var)
        y, call.kept = self.kernel.forward(x, p[0], p[1], residual, given, self.keep)
        return y

    def backward(
        self,
        call: Call,
        grad_y: Tensor,
        x: Tensor,
        residual: Tensor | None,
        mask: Tensor | None,
        p: Parameters,
        needs: Sequence[bool],
    ) -> Gradients:
        weight, bias = p
        saved = [t for t in (x, residual, weight, bias) if t is not None]
        same = self.saved.check(*saved)
        if not same:
            check_unchanged(self.of_kind, x, residual, mask, weight, bias)
        values, kept = needs[0] or needs[1], call.kept
        return self.kernel.backward(
            grad_y, x, weight, bias, residual, kept, known=self.by_known, values=values, same=same
        )

    def forms(self, x: Tensor, residual: Tensor | None, mask: Tensor | None, p: Parameters) -> Forms:
        return self.of_kind

    def plainly(self, call: Call, mask: Tensor | None, x: Tensor, residual: Tensor | None, *p: Tensor | None) -> Tensor:
        known = Moments(call.kept[0], call.kept[1], 1) if self.by_known else None
        return plain.planes(Request(x, self.formula, p, self.activation, residual, known=known))[0]

    def statistics(self, request: Request, kept: Tensor) -> Moments:
        """The pools' moments, of groups for each of their channels."""
        if request.known is not None:
            return plain.as_table(request.known, request.x)
        return plain.moments_of_pools(request, self.groups, kept)

    def remember(self, request: Request, kept: Tensor) -> bool:
        """Whether the memory took the statistics in."""
        return self.memory.remember(request.x.dtype, request.memory, kept, None, self.count)  # type: ignore[union-attr]


class AlongRows(Pass):
    """Rows, or the channels at each pixel; residual and activation follow as operations of their own."""

    name = "one kernel each way, residual and activation behind it"
    remembers = False

    def __init__(self, request: Request, backend: Rows, *, graph: bool) -> None:
        self.graph, self.backend, self.formula = graph, backend, request.formula
        self.activation = request.activation
        self.alone = request.activation is None and request.residual is None
        x, pixels = request.x, request.view.over == "pixels"
        #: Whether the channels at a pixel are neighbours in memory, and so a row.
        self.turned = pixels and not (x.dim() > 2 and x.is_contiguous())
        self.width = x.shape[1] if self.turned else 0 if pixels else x.shape[-request.view.dims :].numel()
        self.row_view = View("rows", 1) if self.turned else request.view
        self.eps: Any = request.formula.keywords["eps"]  # type: ignore[attr-defined]
        self.center = plain.centers(request)

    def run(self, request: Request) -> tuple[Tensor, None]:
        if self.alone and not self.turned:
            return super().run(request)[0], None
        x = request.x
        values = to_be_finished(x, request.activation, request.residual)
        if self.turned:
            values = values.movedim(1, -1)
        y, _ = super().run(request._replace(x=values, residual=None))
        if self.turned:
            y = plain.as_maps(y, x)
        return narrowed(finish(y, request.activation, request.residual), x), None

    def forward(self, call: Call, x: Tensor, residual: Tensor | None, mask: Tensor | None, p: Parameters) -> Tensor:
        given = x
        if not x.is_contiguous():
            check_memory(x)
            x = x.contiguous()
        weight, bias = p
        rest = (weight, bias, self.eps, self.center, self.graph)
        if self.width:
            y, call.kept = self.backend.rows(x, self.width, *rest)
        else:
            y, call.kept = self.backend.columns(x, *rest)
        if given is x or self.center or self.turned:
            return y
        return as_operators_lay(given, y)  # torch's own layer_norm is always contiguous, its rms_norm elementwise

    def backward(
        self,
        call: Call,
        grad_y: Tensor,
        x: Tensor,
        residual: Tensor | None,
        mask: Tensor | None,
        p: Parameters,
        needs: Sequence[bool],
    ) -> Gradients:
        if not x.is_contiguous():
            check_memory(x)
        grad_y, x = grad_y.contiguous(), x.contiguous()
        weight, bias = p
        rest = (weight, bias, call.kept, self.center, (needs[0], needs[2], needs[3]))
        if self.width:
            grads = self.backend.rows_backward(grad_y, x, self.width, *rest)
        else:
            grads = self.backend.columns_backward(grad_y, x, *rest)
        return grads[0], None, *grads[1:]

    def plainly(self, call: Call, mask: Tensor | None, x: Tensor, residual: Tensor | None, *p: Tensor | None) -> Tensor:
        return plain.rows(Request(x, self.formula, p, view=self.row_view))


class AlongRowsOfSums(Pass):
    """Rows of ``x + residual``, which are added in the pass that normalizes them."""

    name = "one kernel each way"
    remembers = False
    saves_sum = True

    def __init__(self, request: Request, backend: RowsOfSums, *, graph: bool) -> None:
        self.graph, self.backend, self.formula, self.dims = graph, backend, request.formula, request.view.dims
        self.width = request.x.shape[-self.dims :].numel()
        self.eps: Any = request.formula.keywords["eps"]  # type: ignore[attr-defined]
        self.center = plain.centers(request)

    def forward(
        self, call: Call, x: Tensor, residual: Tensor | None, mask: Tensor | None, p: Parameters
    ) -> tuple[Tensor, Tensor]:
        assert residual is not None
        check_memory(x, residual)
        weight, bias = p
        rest = (self.width, weight, bias, self.eps, self.center, self.graph)
        y, total, call.kept = self.backend.rows_of_sum(x.contiguous(), residual.contiguous(), *rest)
        return y, total

    def backward(
        self,
        call: Call,
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
        self, call: Call, mask: Tensor | None, x: Tensor, residual: Tensor | None, *p: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        return plain.rows(Request(x, self.formula, p, view=View("rows", self.dims))), x


def bind(request: Request, context: Context) -> OverPools | AlongRows | AlongModulatedRows | AlongRowsOfSums | str:
    """The way for a kind of call, or why it is none."""
    x, residual = request.x, request.residual
    if context.plain:
        return "somebody looks at the operations: a compiler, an exporter, a transform"
    if request.mask is not None:
        return "there is a mask"
    known = () if request.known is None else request.known[:2]
    for t in (residual, *request.parameters, *known):
        if t is not None and (type(t) not in PLAIN or not t.is_floating_point() or t.is_sparse or t.device != x.device):
            return f"a {type(t).__name__} of {t.dtype} on {t.device} goes with x"
    backend = select(x)
    if request.view.over == "sums":
        return _rows_of_sums(request, backend)
    if request.view.over != "planes":
        return _rows(request, backend)
    groups = context.pool
    if groups is None:
        return NO_POOL
    fused = offering(backend, Fused)  # type: ignore[type-abstract]
    if fused is None:
        return f"the backend {backend.name!r}, which serves x, has no such kernel"
    if residual is not None and context.watched:
        return "a mode looks for the addition of the residual"
    return OverPools(request, fused, groups, graph=context.graph)


def _rows(request: Request, backend: Backend) -> AlongRows | AlongModulatedRows | str:
    if plain.of_each_set(request) is not None:
        return modulated_rows(request, backend)
    able = offering(backend, Rows)  # type: ignore[type-abstract]
    if able is None:
        return f"the backend {backend.name!r}, which serves x, has no kernels of rows"
    return AlongRows(request, able, graph=needs_graph(request.x, *request.parameters))


def _rows_of_sums(request: Request, backend: Backend) -> AlongRowsOfSums | str:
    x, residual = request.x, request.residual
    able = offering(backend, RowsOfSums)  # type: ignore[type-abstract]
    if able is None:
        return f"the backend {backend.name!r}, which serves x, has no kernels of rows of sums"
    if residual is None or residual.dtype is not x.dtype or request.activation is not None:
        return "the terms are of two dtypes, or an activation follows"
    return AlongRowsOfSums(request, able, graph=needs_graph(x, residual, *request.parameters))


def _memory_of(backend: Backend, request: Request) -> Remembering | None:
    able = offering(backend, Remembering)  # type: ignore[type-abstract]
    x, running = request.x, request.memory
    values = x.numel() // max(x.shape[1], 1)
    if able is None or running is None or values < 2 or not able.remembers(x.dtype, running):
        return None
    return able
