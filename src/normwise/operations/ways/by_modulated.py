"""Sets of rows that have an affine map each: a sample's tokens by its condition, every token by its own gate."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from normwise.backends import Backend, ModulatedRows, offering
from normwise.core.layout import check_memory
from normwise.core.sizes import product, same

from ..autograd import Gradients, Parameters, Pass, PassCall
from ..context import needs_graph
from ..epilogue import finish, narrowed, to_be_finished
from ..request import Request, centers
from . import plain


class AlongModulatedRows(Pass):
    """Modulated rows by one kernel each way; residual and activation follow as separate operations."""

    name = "one kernel each way, residual and activation behind it"
    remembers = False

    def __init__(self, request: Request, backend: ModulatedRows, per: int, *, graph: bool) -> None:
        self.graph, self.backend, self.formula, self.view = graph, backend, request.formula, request.view
        self.width, self.per = product(request.x.shape[-request.view.dims :]), per
        self.eps: Any = request.formula.keywords["eps"]  # type: ignore[attr-defined]
        self.center, self.plus = centers(request), plain.of_each_set(request) or 0.0

    def run(self, request: Request) -> tuple[Tensor, None]:
        x = request.x
        values = to_be_finished(x, request.activation, request.residual)
        y, _ = super().run(request._replace(x=values, residual=None))
        return narrowed(finish(y, request.activation, request.residual), x), None

    def forward(self, call: PassCall, x: Tensor, residual: Tensor | None, mask: Tensor | None, p: Parameters) -> Tensor:
        check_memory(x, *p)
        scale, shift = p
        rest = (scale, shift, self.plus, self.eps, self.center, self.graph)
        y, call.kept = self.backend.modulated_rows(x.contiguous(), self.width, self.per, *rest)
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
        check_memory(x, *p)
        scale, shift = p
        rest = (scale, shift, self.plus, call.kept, self.center, (needs[0], needs[2], needs[3]))
        sizes = self.width, self.per
        found = self.backend.modulated_rows_backward(grad_y.contiguous(), x.contiguous(), *sizes, *rest)
        tables = [g if g is None or t is None else g.view(t.shape) for g, t in zip(found[1:], p, strict=True)]
        return found[0], None, *tables

    def plainly(
        self, call: PassCall, mask: Tensor | None, x: Tensor, residual: Tensor | None, *p: Tensor | None
    ) -> Tensor:
        return plain.rows(Request(x, self.formula, p, view=self.view))[0]


def modulated_rows(request: Request, backend: Backend) -> AlongModulatedRows | str:
    """The way for a formula with an affine map for each set of rows, or the reason why there is none."""
    able = offering(backend, ModulatedRows)  # type: ignore[type-abstract]
    if able is None:
        return f"the backend {backend.name!r}, which serves x, has no kernels of rows with an affine map for each set"
    x = request.x
    sizes = {rows_in_a_set(x, t, request.view.dims) for t in request.parameters if t is not None} or {
        product(x.shape[:-1])
    }
    (per, *others) = sizes
    if per is None or others:
        return "scale and shift must vary along the same first dimensions of x only"
    return AlongModulatedRows(request, able, per, graph=needs_graph(x, *request.parameters))


def rows_in_a_set(x: Tensor, table: Tensor, dims: int) -> int | None:
    """How many neighbouring rows share a row of ``table``, which has as many dimensions as ``x``; None if they do not.

    >>> import torch
    >>> x = torch.empty(4, 2, 3, 8)
    >>> [rows_in_a_set(x, torch.empty(size), 1) for size in [(4, 1, 1, 8), (4, 2, 1, 8), (4, 2, 3, 8), (1, 2, 1, 8)]]
    [6, 3, 1, None]
    """
    outer, own = x.shape[:-dims], table.shape[:-dims]
    if len(own) != len(outer) or not same(table.shape[-dims:], x.shape[-dims:]):
        return None
    first = next((i for i in range(len(outer)) if own[i] != outer[i]), len(outer))
    if any(size != 1 for size in own[first:]):
        return None
    return max(product(outer[first:]), 1)
