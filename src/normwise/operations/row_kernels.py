"""Normalization of rows by a backend's own kernels, forward and backward."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from normwise.backends import Rows

from .higher import differentiable_gradients

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
        if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (x, weight, bias)):
            return _Normalize.apply(self, x, weight, bias)  # type: ignore[return-value]
        return self.forward(x, weight, bias)[0].view(x.shape)

    def forward(self, x: Tensor, weight: Tensor | None, bias: Tensor | None) -> tuple[Tensor, Tensor | None, Tensor]:
        weight, bias = (None if p is None else p.detach().flatten() for p in (weight, bias))
        if self.width:
            return self.backend.rows(x.contiguous(), self.width, weight, bias, self.eps, self.center)
        return self.backend.columns(x.contiguous().flatten(2), weight, bias, self.eps, self.center)

    def backward(
        self,
        grad_y: Tensor,
        x: Tensor,
        weight: Tensor | None,
        mean: Tensor | None,
        rstd: Tensor,
        needs: tuple[bool, bool, bool],
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        flat = None if weight is None else weight.detach().flatten()
        grad_y, x, rest = grad_y.contiguous(), x.contiguous(), (flat, mean, rstd, self.center)
        if self.width:
            return self.backend.rows_backward(grad_y, x, self.width, *rest, *needs)
        return self.backend.columns_backward(grad_y.flatten(2), x.flatten(2), *rest, *needs)


class _Normalize(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, call: Call, x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
        y, mean, rstd = call.forward(x, weight, bias)
        ctx.call = call
        ctx.save_for_backward(x, weight, bias, mean, rstd)
        return y.view(x.shape)

    @staticmethod
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, mean, rstd = ctx.saved_tensors
        if torch.is_grad_enabled():
            return (None, *differentiable_gradients(ctx.call.plain, (x, weight, bias), grad_y))
        grads = ctx.call.backward(grad_y, x, weight, mean, rstd, ctx.needs_input_grad[1:])
        return (None, *(None if g is None else g.view(t.shape) for g, t in zip(grads, (x, weight, bias), strict=True)))
