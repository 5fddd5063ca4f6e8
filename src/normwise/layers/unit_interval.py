"""A parameter that lives in [0, 1] and cannot get stuck outside."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from normwise.core.lasting import unseen
from normwise.core.layout import check_memory
from normwise.core.observed import is_exporting, is_functionalized
from normwise.operations.context import plain_operations_wanted


def unit_interval(t: Tensor) -> Tensor:
    """``t`` clamped to [0, 1], whose gradient passes whole, outside too.

    The gradient of a plain clamp is 0 outside: a parameter that an optimizer's step carried beyond 1 would stay
    there for good. Which of the gradients lead back, only the optimizer knows (``maximize=True``); `bring_back` sees to
    it that the others lead no further than a step.

    >>> gate = torch.tensor([1.2, 1.2, 0.4], requires_grad=True)
    >>> unit_interval(gate) @ torch.tensor([1.0, -1.0, 1.0])
    tensor(0.4000, grad_fn=<DotBackward0>)
    >>> torch.autograd.grad(_, gate)
    (tensor([ 1., -1.,  1.]),)
    """
    if forward_ad._current_level >= 0 or torch.jit.is_tracing():  # pyright: ignore[reportPrivateImportUsage]
        # Forward mode wants the function's own slope (a jvp beside the backward is what no compiler takes), and a
        # trace for inference can hold no Python function.
        return t.clamp(0, 1)
    if is_functionalized():
        return t.clamp(0, 1).detach() + (t - t.detach())
    return _UnitInterval.apply(t)  # type: ignore[return-value]


def bring_back(parameter: Tensor) -> None:
    """Clip in place what an optimizer's step carried out of [0, 1], before it is used in training again.

    That is the step projected, as if the optimizer had clipped. Only a leaf that is being trained is touched, and not
    inside of a transform or an export, where it is not the caller's own.
    """
    if not (parameter.requires_grad and parameter.is_leaf and torch.is_grad_enabled()):
        return
    if plain_operations_wanted() and not (torch.compiler.is_compiling() and not is_exporting()):
        return
    # Through `data`, which no graph notices: to all that see the parameter by `unit_interval` the value is the same.
    check_memory(parameter)
    with unseen():
        parameter.data.clamp_(0, 1)


class _UnitInterval(torch.autograd.Function):
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
