"""torch's expanded weights: parameters that give per-sample gradients in the few functions that support them.

`torch.nn.utils._per_sample_grad.call_for_per_sample_grads` puts them in the place of a layer's parameters. They have no
values that could be read, and any other operation on one is an error.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from normwise.core import formulas
from normwise.core.moments import Moments

from ..epilogue import finish
from ..request import Request


def are_expanded(request: Request) -> bool:
    """Whether a parameter is such a weight."""
    # Asked of tensors alone: the compiler of torch 2.11 cannot ask the class of None.
    return any(p is not None and hasattr(type(p), "handled_functions") for p in request.parameters)


class PerSample:
    """A function of torch that supports expanded weights."""

    name = "torch's function for per-sample gradients"
    remembers = False

    def __init__(self, call: Callable[..., Tensor], eps: float) -> None:
        self.call, self.eps = call, eps

    def run(self, request: Request) -> tuple[Tensor, None]:
        weight, bias = request.parameters
        y = self.call(request.x, weight=weight, bias=bias, eps=self.eps)
        return finish(y, request.activation, request.residual), None

    def statistics(self, request: Request, kept: None) -> Moments:
        raise NotImplementedError


def bind(request: Request) -> PerSample:
    """The way of a request with such weights; a TypeError where there is none."""
    formula: Any = request.formula
    constants = getattr(formula, "keywords", {})
    call = _function(request, getattr(formula, "func", None), constants)
    if call is None or request.mask is not None or request.known is not None or request.memory is not None:
        raise TypeError(
            "torch's expanded weights make per-sample gradients of layer, group and instance normalization without a "
            "mask alone; use torch.func.vmap(torch.func.grad(loss)) for the other layers."
        )
    return PerSample(call, constants["eps"])


def _function(request: Request, formula: object, constants: dict[str, Any]) -> Callable[..., Tensor] | None:
    x, view = request.x, request.view
    if view.over == "rows" and formula is formulas.instance_norm:
        return partial(F.layer_norm, normalized_shape=tuple(x.shape[-view.dims :]))
    if view.over == "planes" and formula is formulas.group_norm:
        return partial(F.group_norm, num_groups=constants["groups"])
    if view.over == "planes" and formula is formulas.instance_norm:
        return F.instance_norm
    return None
