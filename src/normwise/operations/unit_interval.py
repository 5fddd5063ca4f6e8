"""A parameter that lives in [0, 1] and cannot get stuck outside."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad


def unit_interval(t: Tensor) -> Tensor:
    """``t`` clamped to [0, 1]; outside, gradients pass that lead back, and those that lead further out do not.

    The gradient of a plain clamp is 0 outside: a parameter that an optimizer's step carried beyond 1 would stay
    there for good.

    >>> gate = torch.tensor([1.2, 1.2, 0.4], requires_grad=True)
    >>> unit_interval(gate) @ torch.tensor([1.0, -1.0, 1.0])
    tensor(0.4000, grad_fn=<DotBackward0>)
    >>> torch.autograd.grad(_, gate)
    (tensor([1., 0., 1.]),)
    """
    if forward_ad._current_level >= 0 or torch.jit.is_tracing():  # pyright: ignore[reportPrivateImportUsage]
        # Forward mode wants the function's own slope (a jvp beside the backward is what no compiler takes), and a
        # trace for inference can hold no Python function.
        return t.clamp(0, 1)
    return _UnitInterval.apply(t)  # type: ignore[return-value]


class _UnitInterval(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(t: Tensor) -> Tensor:
        return t.clamp(0, 1)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:  # noqa: ARG004
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # type: ignore[override]
        (t,) = ctx.saved_tensors
        # Descent follows -grad. At 0 and 1 themselves the gradient is left whole: cutting it there, process by
        # process and micro-batch by micro-batch, would turn noise around the edge into a drift.
        outward = ((t > 1) & (grad < 0)) | ((t < 0) & (grad > 0))
        return grad.masked_fill(outward, 0)
