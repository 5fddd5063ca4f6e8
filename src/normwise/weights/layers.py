"""The layers whose weights can be normalized: the axes of the fan-in, the tensor, and its parametrization."""

from __future__ import annotations

import sys
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter
from torch.nn.utils import parametrize

from normwise.core.arguments import check_floating
from normwise.core.layout import check_memory
from normwise.core.symbols import Traceable

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
LAYERS = (nn.Linear, *CONVOLUTIONS, *TRANSPOSED)

AnyModule = TypeVar("AnyModule", bound=nn.Module)


class StandardizedConv(Traceable):
    """Marks convolutions that standardize their weight in ``forward``; a parametrization would repeat it."""

    def standardized(self, weight: Tensor) -> Tensor:
        raise NotImplementedError

    def __setattr__(self, name: str, value: object) -> None:
        caller = sys._getframe(1)
        if name == "weight" and caller.f_globals.get("__name__") == "torch.nn.utils.fusion":
            raise TypeError(
                f"{type(self).__name__}: {caller.f_code.co_name} writes a weight that would be standardized again at "
                "the next call, which undoes the fusion; write normwise.bake(model) before it."
            )
        super().__setattr__(name, value)


class FanIn(NamedTuple):
    """The position of the weights that feed one output unit.

    Linear and convolution weights are ``[out, in / groups, *kernel]``: the unit is dimension 0. Transposed ones
    are ``[in, out / groups, *kernel]``, where group g owns a slice of dimension 0: the unit is (g, dimension 1).
    ``groups`` is None for the former.
    """

    groups: int | None

    @classmethod
    def of(cls, module: nn.Module) -> FanIn:
        return cls(module.groups) if isinstance(module, TRANSPOSED) else cls(None)

    def blocks(self, weight: Tensor) -> Tensor:
        """A view in which the dimensions `axes` are exactly the fan-in of each unit."""
        return weight if self.groups is None else weight.unflatten(0, (self.groups, -1))

    def axes(self, blocks: Tensor) -> tuple[int, ...]:
        return tuple(range(1, blocks.dim())) if self.groups is None else (1, *range(3, blocks.dim()))

    def per_unit(self, values: Tensor, blocks: Tensor) -> Tensor:
        """``[out]`` values in a shape that broadcasts over the blocks."""
        axes = self.axes(blocks)
        return values.reshape([1 if d in axes else n for d, n in enumerate(blocks.shape)])

    def units(self, weight: Tensor) -> int:
        return weight.shape[0] if self.groups is None else self.groups * weight.shape[1]

    def size(self, weight: Tensor) -> int:
        blocks = self.blocks(weight)
        return torch.Size(blocks.shape[d] for d in self.axes(blocks)).numel()


def check_fan_in(size: int, caller: str) -> None:
    """Require at least 2 weights: a single one is its own mean, and the standardized weight would be 0 (or NaN)."""
    if size < 2:
        raise ValueError(
            f"{caller}: each output unit has a fan-in of {size} weight, which standardization turns into 0; it needs "
            "at least 2. Leave this layer out (a depthwise 1 x 1 convolution is a per-channel scale)."
        )


def weight_of(module: nn.Module, name: str, caller: str) -> Tensor:
    """The named tensor of a module, or an error that says what can be normalized."""
    if not isinstance(module, nn.Module):
        raise TypeError(f"{caller} expects a module such as nn.Conv2d, received {type(module).__name__}.")
    known = {key for key, value in (*module._parameters.items(), *module._buffers.items()) if value is not None}
    if name not in known and not parametrize.is_parametrized(module, name):
        raise ValueError(
            f"{caller}: {type(module).__name__} has no parameter or buffer named {name!r}; "
            f"it has: {', '.join(sorted(known)) or 'none'}."
        )
    if isinstance(module, StandardizedConv):
        raise ValueError(
            f"{caller}: {type(module).__name__} standardizes its weight in forward, so a parametrization under it has "
            "no effect; use the plain convolution with weight_standardization(conv) and then this one."
        )
    weight = getattr(module, name)
    if isinstance(weight, (UninitializedParameter, UninitializedBuffer)):
        raise ValueError(f"{caller}: {name!r} of a lazy module has no shape yet; run one forward first.")
    check_numbers(weight, f"{caller}({name!r})")
    return weight


def parametrized(module: AnyModule, name: str, norm: nn.Module) -> AnyModule:
    """Register a weight's parametrization, which raises an error if a new parameter is assigned to the weight.

    Tools that fuse or quantize assign one; torch itself raises KeyError("attribute 'weight' already exists").
    """
    parametrize.register_parametrization(module, name, norm)
    cls = type(module)  # a class for this module alone, made by torch with its first parametrization
    if "__setattr__" not in vars(cls):
        cls.__setattr__ = _set_no_parameter  # type: ignore[method-assign]
    return module


def _set_no_parameter(module: nn.Module, name: str, value: object) -> None:
    if isinstance(value, nn.Parameter) and parametrize.is_parametrized(module, name):
        norms = " and ".join(type(norm).__name__ for norm in chain_of(module, name))
        raise TypeError(
            f"{type(module).__name__}: {name!r} is computed by {norms}, and cannot be another parameter; write "
            "normwise.bake(model) before a tool that fuses or quantizes, or assign a tensor that is no parameter."
        )
    parent: Any = type(module).__bases__[0]
    parent.__setattr__(module, name, value)


def check_numbers(weight: Tensor, caller: str) -> None:
    """Require floating or complex numbers in a dense tensor whose memory was not released."""
    check_floating(weight.real if isinstance(weight, Tensor) and weight.is_complex() else weight, caller)
    check_memory(weight)


def chain_of(module: nn.Module, name: str) -> nn.ModuleList:
    """The parametrizations of a tensor, in the order in which they are applied."""
    return module.parametrizations[name]  # type: ignore[index, return-value]


def check_layer(module: nn.Module, caller: str) -> None:
    if not isinstance(module, LAYERS):
        raise TypeError(
            f"{caller} knows the fan-in of nn.Linear, nn.ConvNd and nn.ConvTransposeNd, received "
            f"{type(module).__name__}; apply it to the layers inside."
        )


def computing_dtype(weight: Tensor) -> torch.dtype:
    """fp32 for fp16, bf16 and fp32 weights, fp64 for fp64, and the matching complex dtypes."""
    return torch.promote_types(weight.dtype, torch.float32)
