"""The base of the stand-ins, and the error for layers without one."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, NoReturn, Optional

import torch
from torch import Tensor, nn

from normwise.core.activations import MODULES

_ACTIVATIONS: dict[str | None, Callable[[], nn.Module]] = {None: nn.Identity, **MODULES}


class Scripted(nn.Module):
    """Computes the output of a layer, with its own parameters and buffers; ``forward(input, residual=None)``.

    No masks, no policy of the running statistics, no banks and no processes: plain operations of torch, in fp32 (fp64).
    """

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self._parameters.update(layer._parameters)
        self._buffers.update(layer._buffers)
        self.finish = _ACTIVATIONS[layer.activation if layer.activation != "tlu" else None]()
        #: The layer that it replaces, in a tuple, so that the compiler does not look for modules inside.
        self.__dict__["stands_for"] = (layer,)
        self.train(layer.training)

    def finished(self, y: Tensor, residual: Optional[Tensor], input: Tensor) -> Tensor:  # noqa: UP045  # TorchScript
        if residual is not None:
            y = y + residual
        return self.finish(y).to(input.dtype)


def wide(t: Tensor) -> Tensor:
    """``t`` in the dtype in which statistics are computed."""
    return t if t.dtype == torch.float64 else t.float()


def wide_or_none(t: Optional[Tensor], x: Tensor) -> Optional[Tensor]:  # noqa: UP045  # TorchScript
    return t if t is None else t.to(x.dtype)


def root_mean_square_normalized(x: Tensor, dims: list[int], eps: float) -> Tensor:
    """``x`` over its root mean square; a negative ``eps`` means the machine epsilon."""
    if eps < 0:
        eps = 2.220446049250313e-16 if x.dtype == torch.float64 else 1.1920928955078125e-07
    return x * torch.rsqrt(x.square().mean(dims, keepdim=True) + eps)


def positions(t: Tensor) -> Tensor:
    """``t`` as ``[N, C, positions]``; ``[N, C]`` has one position."""
    return t.unsqueeze(-1).flatten(2)


def over_space(table: Tensor, x: Tensor) -> Tensor:
    """A table ``[C]`` or ``[N, C]`` in a shape that broadcasts against ``x``."""
    return table.view(list(table.shape) + [1] * (x.dim() - 2))


def affine(y: Tensor, weight: Optional[Tensor], bias: Optional[Tensor]) -> Tensor:  # noqa: UP045  # TorchScript
    if weight is not None:
        y = y * over_space(weight, y)
    if bias is not None:
        y = y + over_space(bias, y)
    return y


def refuse(layer: nn.Module, why: str) -> NoReturn:
    """Raise a TypeError and restore the model that `torch.jit.script` was given.

    It puts the stand-ins into that model one by one, and would leave those before the error in it.
    """
    frame: Any = sys._getframe(1)
    root = None
    while frame is not None:
        if frame.f_code.co_name == "call_prepare_scriptable_func_impl":
            root = frame.f_locals.get("obj")
        frame = frame.f_back
    for module in root.modules() if isinstance(root, nn.Module) else ():
        for name, child in module._modules.items():
            if child is not None and "stands_for" in vars(child):
                module._modules[name] = child.__dict__["stands_for"][0]
    raise TypeError(
        f"{type(layer).__name__} has no plain counterpart for torch.jit.script, {why}; torch.export and torch.jit.trace"
        " support it."
    )
