"""Plain standardization by a backend that does all of it in one kernel, forward and backward."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from normwise.backends import Fused, Known
from normwise.core import formulas
from normwise.core.activations import Activation, activation_named
from normwise.core.formulas import Formula
from normwise.core.moments import Moments

from .higher import check_unchanged, direct_call
from .plain import differentiable_backward
from .transforms import needs_graph


def standardize(
    backend: Fused,
    x: Tensor,
    groups: int,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    activation: str | None,
    residual: Tensor | None,
    known: Known | None = None,
    *,
    measured: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """Standardize over each sample's ``groups`` of channels, 0 for over the batch, or by ``known`` moments.

    Also, where they are to be ``measured`` or a backward follows, the moments of the pools as a table, see
    `Fused.standardize`.
    """
    act = activation_named(activation)
    if not needs_graph(x, residual, weight, bias):
        return backend.standardize(x, groups, weight, bias, eps, residual, act, known, measured)
    call = _Call(backend, groups, eps, act, known)
    return _apply(call, x, residual, weight, bias), call.table


class _Call:
    """One forward pass: what its backward needs besides tensors."""

    __slots__ = ("activation", "backend", "eps", "groups", "known", "table")

    def __init__(
        self, backend: Fused, groups: int, eps: float, activation: Activation | None, known: Known | None
    ) -> None:
        self.backend, self.groups, self.eps, self.activation = backend, groups, eps, activation
        self.known = known
        self.table: Tensor | None = None

    def formula(self) -> Formula:
        """The same for the general path."""
        if self.known is not None:
            return partial(formulas.standardized, eps=self.eps)
        if self.groups == 0:
            return partial(formulas.batch_norm, eps=self.eps)
        return partial(formulas.group_norm, groups=self.groups, eps=self.eps)

    def given(self) -> Moments | None:
        """What was known of the statistics, as it was then."""
        if self.known is None or self.table is None:
            return None
        mean, var = self.table.unbind()
        return Moments(mean, var, 1)


class _Standardize(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, call: _Call, x: Tensor, residual: Tensor | None, weight: Tensor | None, bias: Tensor | None
    ) -> Tensor:
        y, call.table = call.backend.standardize(
            x, call.groups, weight, bias, call.eps, residual, call.activation, call.known, True
        )
        ctx.call = call
        ctx.save_for_backward(x, residual, weight, bias)
        return y

    @staticmethod
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
        call, (x, residual, weight, bias) = ctx.call, ctx.saved_tensors
        check_unchanged(x, grad_y)
        if torch.is_grad_enabled():
            what = (call.formula(), call.activation, None, call.given())
            return (None, *differentiable_backward(grad_y, x, residual, (weight, bias), *what))
        needs = ctx.needs_input_grad
        rest = (call.groups, weight, bias, call.eps, residual, call.activation, call.table)
        grads = call.backend.standardize_backward(
            grad_y, x, *rest, known=call.known is not None, values=needs[1] or needs[2]
        )
        return None, *grads


_apply = direct_call(_Standardize)
