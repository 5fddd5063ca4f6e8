"""Normalization of rows and pixels by a backend that reads the tensors of a kind of call as they lie."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

from torch import Tensor

from normwise.backends import Backend, BoundRows, DenseRows, offering
from normwise.core.activations import activation_named
from normwise.core.kinds import kinds_of

from ..autograd import Forms, Gradients, Parameters, Pass, PassCall, check_unchanged, forms_of
from ..context import needs_graph
from ..request import Request, centers
from . import plain


class AlongDenseRows(Pass):
    """Rows, or the channels at each pixel, in the layout that they come in."""

    name = "one kernel each way"
    remembers = False
    looks_itself = True

    def __init__(self, request: Request, kernel: DenseRows) -> None:
        x, residual = request.x, request.residual
        self.kernel, self.graph = kernel, needs_graph(x, residual, *request.parameters)
        self.formula, self.activation, self.view = request.formula, request.activation, request.view
        self.passes_residual = residual is not None and request.activation is None
        given = (x, None if self.passes_residual else residual, None, *request.parameters)
        #: Of what all calls of this kind save.
        self.of_kind, self.saved = forms_of(*given), kinds_of(*(t for t in given if t is not None))

    def forward(self, call: PassCall, x: Tensor, residual: Tensor | None, mask: Tensor | None, p: Parameters) -> Tensor:
        y, call.kept = self.kernel.forward(x, p[0], p[1], residual, self.graph)
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
        same = self.saved.check(*[t for t in (x, residual, weight, bias) if t is not None])
        if not same:
            check_unchanged(self.of_kind, x, residual, mask, weight, bias)
        return self.kernel.backward(grad_y, x, weight, bias, residual, call.kept, needs, same)

    def forms(self, x: Tensor, residual: Tensor | None, mask: Tensor | None, p: Parameters) -> Forms:
        return self.of_kind

    def plainly(
        self, call: PassCall, mask: Tensor | None, x: Tensor, residual: Tensor | None, *p: Tensor | None
    ) -> Tensor:
        return plain.Plainly().run(Request(x, self.formula, p, self.activation, residual, view=self.view))[0]

    def statistics(self, request: Request, kept: Any) -> NoReturn:
        raise NotImplementedError


def as_they_lie(request: Request, backend: Backend) -> AlongDenseRows | None:
    """The way for a kind of call, if nothing has to be converted."""
    able = offering(backend, BoundRows)  # type: ignore[type-abstract]
    if able is None or request.measured:
        return None
    x, view, (weight, bias) = request.x, request.view, request.parameters
    width = 0 if view.over == "pixels" else x.shape[-view.dims :].numel()
    eps: Any = request.formula.keywords["eps"]  # type: ignore[attr-defined]
    activation = activation_named(request.activation)
    kernel = able.dense_rows(x, width, weight, bias, eps, centers(request), request.residual, activation)
    return None if kernel is None else AlongDenseRows(request, kernel)
