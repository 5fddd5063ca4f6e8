"""A bounded function of each value instead of a normalizer: no statistics at all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from normwise.backends import Squashing, offering, select
from normwise.core.activations import Activation, activation_named
from normwise.core.arguments import check_residual
from normwise.core.layout import PLAIN, check_memory
from normwise.core.moments import widen
from normwise.core.tables import check_optional, check_scalars

from .autograd import Gradients, Parameters, Pass, PassCall, over_tensor
from .context import additions_are_watched, needs_graph, plain_operations_wanted, without_autocast
from .epilogue import finish
from .saved import guarded


class _Inputs(NamedTuple):
    """``y = f(γ·curve(αx + s) + β + residual)``."""

    x: Tensor
    curve: str
    dim: int
    alpha: Tensor
    shift: Tensor | None
    weight: Tensor | None
    bias: Tensor | None
    activation: str | None
    residual: Tensor | None


def dynamic_tanh(
    x: Tensor,
    alpha: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    dim: int = -1,
    activation: str | None = None,
    residual: Tensor | None = None,
) -> Tensor:
    r""":math:`\gamma\tanh(\alpha x) + \beta`, with γ and β per channel of dimension ``dim``."""
    check_scalars("DynamicTanh", x, alpha=alpha)
    return _squash("DynamicTanh", _Inputs(x, "tanh", dim, alpha, None, weight, bias, activation, residual))


def dynamic_erf(
    x: Tensor,
    alpha: Tensor,
    shift: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    dim: int = -1,
    activation: str | None = None,
    residual: Tensor | None = None,
) -> Tensor:
    r""":math:`\gamma\,\text{erf}(\alpha x + s) + \beta`, with γ and β per channel of dimension ``dim``."""
    check_scalars("DynamicErf", x, alpha=alpha, shift=shift)
    return _squash("DynamicErf", _Inputs(x, "erf", dim, alpha, shift, weight, bias, activation, residual))


def _squash(caller: str, inputs: _Inputs) -> Tensor:
    """Check the inputs, and compute by a kernel or in plain operations."""
    x, dim = inputs.x, inputs.dim
    check_optional(caller, x, (x.shape[dim],), weight=inputs.weight, bias=inputs.bias)
    activation_named(inputs.activation)  # raises for an unknown name
    if inputs.residual is not None:
        check_residual(inputs.residual, x)
    with without_autocast(x):
        check_memory(x, inputs.alpha, inputs.shift, inputs.weight, inputs.bias, inputs.residual)
        backend = _backend_for(inputs)
        if backend is None:
            return _plainly(inputs)
        # Channels that are neighbours in memory are treated as rows.
        if x.is_contiguous():
            return _by_kernel(backend, inputs._replace(dim=dim % x.dim()))
        turned = inputs._replace(x=_last(x, dim), residual=_last(inputs.residual, dim), dim=x.dim() - 1)
        return _by_kernel(backend, turned).movedim(-1, dim)


def _last(t: Tensor | None, dim: int) -> Tensor | None:
    return None if t is None else t.movedim(dim, -1)


def _backend_for(inputs: _Inputs) -> Squashing | None:
    """A backend with a kernel for these tensors: dense, floating, in memory, and not traced."""
    x, residual = inputs.x, inputs.residual
    if plain_operations_wanted() or type(x) not in PLAIN or x.numel() == 0:
        return None
    dense = x.is_contiguous() or x.movedim(inputs.dim, -1).is_contiguous()
    others = (inputs.alpha, inputs.shift, inputs.weight, inputs.bias, residual)
    if not dense or any(
        t is not None and (type(t) not in PLAIN or not t.is_floating_point() or t.device != x.device) for t in others
    ):
        return None
    if residual is not None and (residual.dtype is not x.dtype or additions_are_watched()):
        return None
    return offering(select(x), Squashing)  # type: ignore[type-abstract]


def _by_kernel(backend: Squashing, inputs: _Inputs) -> Tensor:
    x, residual, parameters = inputs.x, inputs.residual, (inputs.alpha, inputs.shift, inputs.weight, inputs.bias)
    one_pass = _Squash(backend, inputs.curve, inputs.dim, inputs.activation)
    call = PassCall(one_pass, None)
    if needs_graph(x, residual, *parameters):
        return over_tensor(call, x, residual, None, *parameters)
    return one_pass.forward(call, x, residual, None, parameters)


class _Squash(Pass):
    """A pass by one kernel forward and one backward."""

    def __init__(self, backend: Squashing, curve: str, dim: int, activation: str | None) -> None:
        self.backend, self.curve, self.dim, self.activation = backend, curve, dim, activation
        self.act: Activation | None = activation_named(activation)

    def forward(self, call: PassCall, x: Tensor, residual: Tensor | None, mask: Tensor | None, p: Parameters) -> Tensor:
        alpha, shift, weight, bias = p
        assert alpha is not None
        residual = None if residual is None else residual.contiguous()
        return self.backend.squash(x, self.dim, self.curve, alpha, shift, weight, bias, residual, self.act)

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
        check_memory(x, residual, *p)
        alpha, shift, weight, bias = p
        assert alpha is not None
        residual = None if residual is None else residual.contiguous()
        rest = (alpha, shift, weight, bias, residual, self.act, (needs[0], needs[1]))
        return self.backend.squash_backward(grad_y.contiguous(), x.contiguous(), self.dim, self.curve, *rest)

    def plainly(
        self, call: PassCall, mask: Tensor | None, x: Tensor, residual: Tensor | None, *p: Tensor | None
    ) -> Tensor:
        alpha, *others = p
        assert alpha is not None
        return _plainly(_Inputs(x, self.curve, self.dim, alpha, *others, self.activation, residual))  # type: ignore[arg-type]


_CURVES: dict[str, Callable[[Tensor], Tensor]] = {"tanh": torch.tanh, "erf": torch.erf}


def _plainly(inputs: _Inputs) -> Tensor:
    """The function in plain differentiable operations: the specification of the kernels."""
    x, _, dim, alpha, shift, weight, bias, activation, residual = inputs
    values = widen(x)
    inside = guarded(alpha * values, alpha, values)
    y = _CURVES[inputs.curve](inside if shift is None else inside + shift)
    shape = [1] * x.dim()
    shape[dim] = -1
    if weight is not None:
        y = guarded(y * weight.view(shape), weight)
    if bias is not None:
        y = y + bias.view(shape)
    return finish(y, activation, residual).to(x.dtype)
