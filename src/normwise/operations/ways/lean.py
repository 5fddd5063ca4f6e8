"""Passes that keep only their output for the backward pass, which computes the input from it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from normwise.backends import Backend, Fused, offering, reference, select
from normwise.core.layout import PLAIN, check_memory
from normwise.core.moments import Moments, statistics_dtype
from normwise.core.observed import has_values

from ..autograd import Gradients, Parameters, Pass, PassCall, differentiable_gradients
from ..context import Context
from ..request import INVERTIBLE, Request
from . import plain
from .by_kernels import OverPools

#: The least |γ|: the square of a much smaller one underflows in fp32.
LEAST_SCALE = 1e-18


class _KeepsOutput(Pass):
    """The shared part of all lean passes."""

    saves_output = True
    groups: int

    def _check_scales(self, x: Tensor, weight: Tensor | None, bias: Tensor | None) -> None:
        """ValueError where β is so large that its rounding hides the normalized value."""
        if weight is None or x.numel() == 0 or not has_values(weight):
            return
        check_memory(weight, bias)
        size = weight.detach().abs().double()
        least = LEAST_SCALE if bias is None else bias.detach().abs().double() / most_ratio(x.dtype)
        wrong = ~(size > torch.as_tensor(least, device=size.device).clamp_min(LEAST_SCALE))
        if wrong.any():
            channel = int(wrong.nonzero()[0])
            beta = 0.0 if bias is None else bias[channel].item()
            raise ValueError(
                f"lean=True computes the input back from the output, for which |γ| must be above |β| / "
                f"{most_ratio(x.dtype):g} in {x.dtype}; channel {channel} has γ = {weight[channel].item():.3g} and "
                f"β = {beta:.3g}. Write lean=False for this layer."
            )

    def _centered(
        self,
        backend: Backend,
        y: Tensor,
        moments: Moments,
        weight: Tensor | None,
        bias: Tensor | None,
        eps: float,
        activation: str | None,
    ) -> Tensor:
        """``x - mean``, which does not cancel where the mean is large, in the type and layout of ``y``."""
        check_memory(weight, bias)
        dtype, channels = statistics_dtype(y.dtype), y.shape[1]
        var = moments.var
        if var.dim() == 2 and var.shape[1] not in (1, channels):
            var = var.repeat_interleave(channels // var.shape[1], dim=1)
        deviation = (var + eps).sqrt().to(dtype)
        scale = deviation if weight is None else deviation / weight.detach().to(dtype)
        shift = scale.new_zeros(1) if bias is None else bias.detach().to(dtype)
        size = y.shape[0], channels
        z = before_activation(y, activation)
        return backend.apply(z, shift.expand(size), scale.expand(size), scale.new_zeros(()).expand(size), None, None)


class _LeanByKernel(_KeepsOutput, OverPools):
    """The forward pass by one kernel, with checked parameters."""

    checks_saved = False

    def __init__(self, request: Request, backend: Fused, groups: int) -> None:
        super().__init__(request, backend, groups, graph=True)
        self.eps: Any = request.formula.keywords["eps"]  # type: ignore[attr-defined]

    def forward(self, call: PassCall, x: Tensor, residual: Tensor | None, mask: Tensor | None, p: Parameters) -> Tensor:
        self._check_scales(x, *p)
        return super().forward(call, x, residual, mask, p)


class LeanOverPools(_LeanByKernel):
    """Standardization over pools by one kernel each way; the backward pass first computes the input."""

    name = "one kernel each way, and the input back from the output"

    def __init__(self, request: Request, backend: Fused, groups: int) -> None:
        super().__init__(request, backend, groups)
        self.backend, known = backend, request.known
        given = None if known is None else (known.mean, known.var)
        weight, bias = request.parameters
        #: Without the activation, whose slope follows from the sign of the output.
        self.linear = backend.standardization(request.x, groups, weight, bias, self.eps, None, None, given)

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
        (weight, bias), y = p, x
        mean, var = call.kept
        away = self._centered(self.backend, y, Moments(mean, var, 1), weight, bias, self.eps, self.activation)
        table = torch.stack((torch.zeros_like(mean), var))
        g = gradient_before_activation(grad_y, y, self.activation)
        rest = (weight, bias, None, table)
        return self.linear.backward(g, away, *rest, known=self.by_known, values=needs[0], same=False)


class LeanOverBatch(_LeanByKernel):
    r"""Standardization over the batch: its gradient follows from the output before the activation, without the input.

    With :math:`z = \gamma \hat x + \beta` the kernel is called on z, with the statistics :math:`(\beta, \gamma^2)` and
    the weight :math:`\gamma |\gamma| / \sigma`. It computes :math:`\hat x` up to the sign of γ, and

    .. math:: g_x = \frac{\gamma}{\sigma} \left(g - \overline{g} - \hat x\, \overline{g \hat x}\right),

    in which the sign cancels.
    """

    name = "one kernel each way, from the output alone"

    def __init__(self, request: Request, backend: Fused) -> None:
        super().__init__(request, backend, 0)
        x, (_, bias) = request.x, request.parameters
        weight = torch.empty(x.shape[1], dtype=statistics_dtype(x.dtype), device=x.device)
        self.of_output = backend.standardization(x, 0, weight, bias, 0.0, None, None, None)

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
        (weight, bias), y, var = p, x, call.kept[1]
        check_memory(weight, bias)
        gamma = torch.ones_like(var) if weight is None else weight.detach().to(var.dtype).expand_as(var)
        beta = torch.zeros_like(var) if bias is None else bias.detach().to(var.dtype).expand_as(var)
        factor = (gamma * gamma.abs() / (var + self.eps).sqrt()).flatten().to(statistics_dtype(y.dtype))
        table = torch.stack((beta, gamma.square()))
        z, g = before_activation(y, self.activation), gradient_before_activation(grad_y, y, self.activation)
        grad_x, _, grad_factor, grad_bias = self.of_output.backward(
            g, z, factor, bias, None, table, known=self.by_known, values=needs[0], same=False
        )
        if weight is None or grad_factor is None:
            return grad_x, None, None, grad_bias
        return grad_x, None, torch.where(weight.detach() < 0, -grad_factor, grad_factor).to(weight.dtype), grad_bias


class LeanPlainly(_KeepsOutput):
    """The lean pass in plain operations, where there is no kernel: the specification."""

    name = "plain operations, and the input back from the output"
    remembers = False
    graph = True

    def __init__(self, request: Request) -> None:
        self.formula, self.activation = request.formula, request.activation
        self.eps: Any = request.formula.keywords["eps"]  # type: ignore[attr-defined]

    def forward(self, call: PassCall, x: Tensor, residual: Tensor | None, mask: Tensor | None, p: Parameters) -> Tensor:
        self._check_scales(x, *p)
        y, found = plain.planes(Request(x, self.formula, tuple(p), self.activation, known=call.known))
        call.kept = found.detached()
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
        kept, y = call.kept, x
        away = self._centered(reference, y, kept, *p, self.eps, self.activation)  # type: ignore[arg-type]
        known = None if call.known is None else Moments(torch.zeros_like(kept.mean), kept.var, 1)

        def linear(away: Tensor, *p: Tensor | None) -> Tensor:
            return plain.planes(Request(away, self.formula, p, known=known))[0]

        inputs = (away.requires_grad_(needs[0]), *p)
        found = differentiable_gradients(linear, inputs, (gradient_before_activation(grad_y, y, self.activation),))
        return found[0], None, *found[1:]

    def statistics(self, request: Request, kept: Moments) -> Moments:
        """The moments that the formula pooled."""
        return kept


def bind(request: Request, context: Context) -> LeanOverPools | LeanOverBatch | LeanPlainly:
    """The way of a request that keeps only its output."""
    fused = offering(select(request.x), Fused)  # type: ignore[type-abstract]
    assert context.pool is not None
    if fused is None or not all(p is None or type(p) in PLAIN for p in request.parameters):
        return LeanPlainly(request)
    if context.pool == 0:
        return LeanOverBatch(request, fused)
    return LeanOverPools(request, fused, context.pool)


def before_activation(y: Tensor, activation: str | None) -> Tensor:
    """The value before the activation, computed from its output ``y``."""
    slope = INVERTIBLE[activation]
    return y if slope == 1 else F.leaky_relu(y, 1 / slope)


def gradient_before_activation(grad_y: Tensor, y: Tensor, activation: str | None) -> Tensor:
    """The gradient before an activation whose slope follows from the sign of its output."""
    slope = INVERTIBLE[activation]
    return grad_y if slope == 1 else torch.ops.aten.leaky_relu_backward(grad_y, y, slope, True)


def most_ratio(dtype: torch.dtype) -> float:
    """The most that |β| may be relative to |γ|: 128, or less where the rounding of β would exceed 1/64 of |γ|.

    >>> [most_ratio(dtype) for dtype in (torch.float32, torch.float16, torch.bfloat16)]
    [128.0, 32.0, 4.0]
    """
    return min(128.0, 1 / (32 * torch.finfo(dtype).eps))
