"""A parameter that stays in [0, 1] and cannot get stuck outside."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from normwise.core.lasting import changing_state
from normwise.core.layout import check_memory
from normwise.core.observed import is_exporting, is_functionalized
from normwise.operations.context import plain_operations_wanted


def unit_interval(t: Tensor) -> Tensor:
    """``t`` clamped to [0, 1], with a gradient that passes everywhere, outside the interval too.

    The gradient of a plain clamp is 0 outside: a parameter that an optimizer's step moved beyond 1 would stay
    there for good. Only the optimizer knows which gradients lead back inside (``maximize=True``); `bring_back` makes
    sure that the others lead no further outside than one step.

    >>> gate = torch.tensor([1.2, 1.2, 0.4], requires_grad=True)
    >>> unit_interval(gate) @ torch.tensor([1.0, -1.0, 1.0])
    tensor(0.4000, grad_fn=<DotBackward0>)
    >>> torch.autograd.grad(_, gate)
    (tensor([ 1., -1.,  1.]),)
    """
    if forward_ad._current_level >= 0 or torch.jit.is_tracing():  # pyright: ignore[reportPrivateImportUsage]
        # Forward mode needs the function's own slope (no compiler supports a jvp beside the backward pass), and a trace
        # for inference cannot hold a Python function.
        return t.clamp(0, 1)
    if is_functionalized():
        return t.clamp(0, 1).detach() + (t - t.detach())
    return _UnitInterval.apply(t)  # type: ignore[return-value]


def bring_back(parameter: Tensor) -> None:
    """Clip in place a parameter that an optimizer's step moved out of [0, 1], before it is used in training again.

    The result is the projected step, as if the optimizer had clipped. Only a leaf that is being trained is changed, and
    not inside a transform or an export, where the tensor may not be the caller's own.
    """
    if not (parameter.requires_grad and parameter.is_leaf and torch.is_grad_enabled()):
        return
    if plain_operations_wanted() and not (torch.compiler.is_compiling() and not is_exporting()):
        return
    # Through `data`, which autograd does not notice: readers of the parameter by `unit_interval` see the same value.
    check_memory(parameter)
    with changing_state():
        parameter.data.clamp_(0, 1)


class _UnitInterval(torch.autograd.Function):
    """A clamp to [0, 1] whose backward pass is the identity."""

    generate_vmap_rule = True

    @staticmethod
    def forward(t: Tensor) -> Tensor:
        check_memory(t)
        return t.clamp(0, 1)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # type: ignore[override]  # noqa: ARG004
        return grad
