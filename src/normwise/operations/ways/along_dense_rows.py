"""Normalization of rows and pixels by a backend that reads the tensors of a kind of call without conversions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

from torch import Tensor

from normwise.backends import Backend, BoundRows, DenseRows, offering
from normwise.core.activations import activation_named

from ..autograd import Gradients, Parameters, PassCall, PassOfOneKind
from ..context import needs_graph
from ..request import Request, centers
from . import plain


class AlongDenseRows(PassOfOneKind):
    """Rows, or the channels at each pixel, in the layout of the input."""

    name = "one kernel each way"
    remembers = False

    def __init__(self, request: Request, kernel: DenseRows) -> None:
        super().__init__(request)
        self.kernel, self.view = kernel, request.view
        self.graph = needs_graph(request.x, request.residual, *request.parameters)

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
        same = self.saved_are_same(x, residual, mask, p)
        return self.kernel.backward(grad_y, x, p[0], p[1], residual, call.kept, needs, same)

    def plainly(
        self, call: PassCall, mask: Tensor | None, x: Tensor, residual: Tensor | None, *p: Tensor | None
    ) -> Tensor:
        return plain.Plainly().run(Request(x, self.formula, p, self.activation, residual, view=self.view))[0]

    def statistics(self, request: Request, kept: Any) -> NoReturn:
        raise NotImplementedError


def as_they_lie(request: Request, backend: Backend) -> AlongDenseRows | None:
    """The way for a kind of call, if no tensor needs a conversion."""
    able = offering(backend, BoundRows)  # type: ignore[type-abstract]
    if able is None or request.measured:
        return None
    x, view, (weight, bias) = request.x, request.view, request.parameters
    width = 0 if view.over == "pixels" else x.shape[-view.dims :].numel()
    eps: Any = request.formula.keywords["eps"]  # type: ignore[attr-defined]
    activation = activation_named(request.activation)
    kernel = able.dense_rows(x, width, weight, bias, eps, centers(request), request.residual, activation)
    return None if kernel is None else AlongDenseRows(request, kernel)
