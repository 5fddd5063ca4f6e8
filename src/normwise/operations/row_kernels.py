"""Normalization of rows by a backend's own kernels, forward and backward."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from normwise.backends import Gradients, Rows, RowTables
from normwise.core.layout import check_memory

from .higher import check_unchanged, differentiable_gradients, direct_call
from .transforms import needs_graph

#: The same in plain differentiable operations: of x, weight and bias.
Plain = Callable[[Tensor, Tensor | None, Tensor | None], Tensor]


class Call(NamedTuple):
    """A normalization of rows: ``width`` values side by side, or the channels at each pixel (0).

    ``plain`` is the same in plain differentiable operations, for higher derivatives.
    """

    backend: Rows
    width: int
    eps: float
    center: bool
    plain: Plain

    def __call__(self, x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
        if needs_graph(x, weight, bias):
            return _apply(self, x, weight, bias)
        return self.forward(x, weight, bias, keep=False)[0]

    def forward(self, x: Tensor, weight: Tensor | None, bias: Tensor | None, *, keep: bool) -> tuple[Tensor, RowTables]:
        if not x.is_contiguous():
            check_memory(x)
            x = x.contiguous()
        if self.width:
            return self.backend.rows(x, self.width, weight, bias, self.eps, self.center, keep)
        return self.backend.columns(x, weight, bias, self.eps, self.center, keep)

    def backward(
        self,
        grad_y: Tensor,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        tables: RowTables,
        needs: tuple[bool, bool, bool],
    ) -> Gradients:
        grad_y, x = grad_y.contiguous(), x.contiguous()
        if self.width:
            return self.backend.rows_backward(grad_y, x, self.width, weight, bias, tables, self.center, needs)
        return self.backend.columns_backward(grad_y, x, weight, bias, tables, self.center, needs)


class _Normalize(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, call: Call, x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
        y, tables = call.forward(x, weight, bias, keep=True)
        ctx.call = call
        ctx.save_for_backward(x, weight, bias, *tables)
        return y

    @staticmethod
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, *tables = ctx.saved_tensors
        check_unchanged(x, grad_y)
        if torch.is_grad_enabled():
            return (None, *differentiable_gradients(ctx.call.plain, (x, weight, bias), grad_y))
        return (None, *ctx.call.backward(grad_y, x, weight, bias, tuple(tables), ctx.needs_input_grad[1:]))


_apply = direct_call(_Normalize)
