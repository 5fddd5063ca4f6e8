"""Plain standardization by a backend that does all of it in one kernel, forward and backward."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from normwise.backends import Fused
from normwise.core import formulas
from normwise.core.activations import Activation, activation_named
from normwise.core.arguments import check_residual
from normwise.core.formulas import Formula
from normwise.core.moments import Moments

from .higher import differentiable_gradients
from .normalize import normalize


def standardize(
    backend: Fused,
    x: Tensor,
    groups: int,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    activation: str | None,
    residual: Tensor | None,
    known: Moments | None = None,
) -> tuple[Tensor, Moments]:
    """Standardize over each sample's ``groups`` of channels, 0 for over the batch, or by ``known`` moments, ``[1, C]``.

    Also the moments of the pools: ``[N, groups]``, or ``[1, C]`` over the batch.
    """
    act = activation_named(activation)
    if residual is not None:
        check_residual(residual, x)
    call = _Call(backend, groups, eps, act, known)
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (x, residual, weight, bias)):
        y = _Standardize.apply(call, x, residual, weight, bias)
    else:
        y = call.run(x, residual, weight, bias)
    return y, call.moments  # type: ignore[return-value]


class _Call:
    """One forward pass: what its backward needs besides tensors."""

    __slots__ = ("activation", "backend", "eps", "groups", "known", "moments")

    def __init__(
        self, backend: Fused, groups: int, eps: float, activation: Activation | None, known: Moments | None
    ) -> None:
        self.backend, self.groups, self.eps, self.activation = backend, groups, eps, activation
        self.known = known is not None
        self.moments = known

    def run(self, x: Tensor, residual: Tensor | None, weight: Tensor | None, bias: Tensor | None) -> Tensor:
        known = self.moments if self.known else None
        y, self.moments = self.backend.standardize(
            x, self.groups, weight, bias, self.eps, residual, self.activation, known
        )
        return y

    def formula(self) -> Formula:
        """The same in plain differentiable operations."""
        if self.known:
            return partial(formulas.standardized, eps=self.eps)
        if self.groups == 0:
            return partial(formulas.batch_norm, eps=self.eps)
        return partial(formulas.group_norm, groups=self.groups, eps=self.eps)


class _Standardize(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, call: _Call, x: Tensor, residual: Tensor | None, weight: Tensor | None, bias: Tensor | None
    ) -> Tensor:
        y = call.run(x, residual, weight, bias)
        ctx.call = call
        ctx.save_for_backward(x, residual, weight, bias)
        return y

    @staticmethod
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
        call, (x, residual, weight, bias) = ctx.call, ctx.saved_tensors
        if torch.is_grad_enabled():
            return (None, *_differentiable_backward(call, grad_y, x, residual, weight, bias))
        grad_x, grad_residual, grad_weight, grad_bias = call.backend.standardize_backward(
            *(grad_y, x, call.groups, weight, bias, call.eps, residual, call.activation, call.moments),
            known=call.known,
            values=ctx.needs_input_grad[1] or ctx.needs_input_grad[2],
        )
        return None, grad_x, grad_residual, grad_weight, grad_bias


def _differentiable_backward(call: _Call, grad_y: Tensor, *inputs: Tensor | None) -> list[Tensor | None]:
    """The gradients as functions that can be differentiated again: those of the general path."""
    moments = call.moments if call.known else None
    activation = None if call.activation is None else call.activation.name

    def operation(x: Tensor, residual: Tensor | None, weight: Tensor | None, bias: Tensor | None) -> Tensor:
        options: dict[str, Any] = {"activation": activation, "residual": residual, "moments": moments}
        return normalize(x, call.formula(), weight, bias, **options)

    return differentiable_gradients(operation, inputs, grad_y)
