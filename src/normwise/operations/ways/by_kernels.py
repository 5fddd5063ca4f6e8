"""Standardization of planes by one kernel forward and one backward; for rows see `along_rows`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from normwise.backends import Backend, Fused, Remembering, offering, select
from normwise.core.activations import activation_named
from normwise.core.layout import PLAIN
from normwise.core.moments import Moments

from ..autograd import Gradients, Parameters, PassCall, PassOfOneKind
from ..context import Context
from ..request import NO_POOL, Request
from . import along_rows, plain
from .along_dense_rows import AlongDenseRows
from .by_modulated import AlongModulatedRows


class OverPools(PassOfOneKind):
    """Plain standardization over the batch, over groups of channels, or by known statistics."""

    name = "one kernel each way"

    def __init__(self, request: Request, backend: Fused, groups: int, *, graph: bool) -> None:
        super().__init__(request)
        x, known, residual = request.x, request.known, request.residual
        self.graph, self.groups, self.by_known = graph, groups, known is not None
        self.keep = graph or ((request.measured or request.memory is not None) and known is None)
        act = activation_named(request.activation)
        weight, bias = request.parameters
        eps: Any = request.formula.keywords["eps"]  # type: ignore[attr-defined]
        given = None if known is None else (known.mean, known.var)
        self.kernel = backend.standardization(x, groups, weight, bias, eps, residual, act, given)
        self.count = x.numel() // max(x.shape[0] * groups if groups else x.shape[1], 1)
        self.memory = None if request.memory is None else _memory_of(backend, request)
        self.remembers = self.memory is not None

    def forward(self, call: PassCall, x: Tensor, residual: Tensor | None, mask: Tensor | None, p: Parameters) -> Tensor:
        known = call.known
        given = None if known is None else (known.mean, known.var)
        y, call.kept = self.kernel.forward(x, p[0], p[1], residual, given, self.keep)
        return y

    def backward(
        self,
        call: PassCall,
        grad_y: Tensor,
        x: Tensor,
        residual: Tensor | None,
        mask: Tensor | None,
        p: Parameters,
        needs: Sequence[bool],
    ) -> Gradients:
        weight, bias = p
        same = self.saved_are_same(x, residual, mask, p)
        values, kept = needs[0] or (needs[1] and not self.passes_residual), call.kept
        found = self.kernel.backward(
            grad_y, x, weight, bias, residual, kept, known=self.by_known, values=values, same=same
        )
        return (found[0], grad_y, *found[2:]) if self.passes_residual else found

    def plainly(
        self, call: PassCall, mask: Tensor | None, x: Tensor, residual: Tensor | None, *p: Tensor | None
    ) -> Tensor:
        known = Moments(call.kept[0], call.kept[1], 1) if self.by_known else None
        return plain.planes(Request(x, self.formula, p, self.activation, residual, known=known))[0]

    def statistics(self, request: Request, kept: Tensor) -> Moments:
        """The pools' moments; those of a group once for each of its channels."""
        if request.known is not None:
            return plain.as_table(request.known, request.x)
        return plain.moments_of_pools(request, self.groups, kept)

    def remember(self, request: Request, kept: Tensor) -> bool:
        """Update the memory; whether it was updated."""
        return self.memory.remember(request.x.dtype, request.memory, kept, None, self.count)  # type: ignore[union-attr]


def bind(
    request: Request, context: Context
) -> OverPools | along_rows.AlongRows | AlongDenseRows | AlongModulatedRows | along_rows.AlongRowsOfSums | str:
    """The way for a kind of call, or the reason why it does not serve."""
    x, residual = request.x, request.residual
    if context.plain:
        return "the operations are traced by a compiler, an exporter or a transform"
    if request.mask is not None:
        return "there is a mask"
    known = () if request.known is None else request.known[:2]
    for t in (residual, *request.parameters, *known):
        if t is not None and (type(t) not in PLAIN or not t.is_floating_point() or t.is_sparse or t.device != x.device):
            return f"a {type(t).__name__} of {t.dtype} on {t.device} goes with x"
    backend = select(x)
    if request.view.over != "planes":
        return along_rows.bind(request, context, backend)
    groups = context.pool
    if groups is None:
        return NO_POOL
    fused = offering(backend, Fused)  # type: ignore[type-abstract]
    if fused is None:
        return f"the backend {backend.name!r}, which serves x, has no such kernel"
    if residual is not None and context.watched:
        return "a mode looks for the addition of the residual"
    return OverPools(request, fused, groups, graph=context.graph)


def _memory_of(backend: Backend, request: Request) -> Remembering | None:
    able = offering(backend, Remembering)  # type: ignore[type-abstract]
    x, running = request.x, request.memory
    values = x.numel() // max(x.shape[1], 1)
    if able is None or running is None or values < 2 or not able.remembers(x.dtype, running):
        return None
    return able
