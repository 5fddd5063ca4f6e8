"""The modules that replace a normalizer after its scale and shift were folded into another layer."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor, nn

from ...core.activations import MODULES
from ...core.layout import check_memory
from ...core.symbols import as_node, is_symbol
from ...operations.saved import guarded
from .layers import padded
from .norms import ChannelMap, activation_of, parts_of


class Epilogue(nn.Module):
    """The steps of one of our layers after its scale and shift: add the residual, then activate.

    It accepts the layer's arguments and ignores those about statistics. ``first`` is applied before.
    """

    def __init__(self, act: nn.Module, names: tuple[str, ...], first: nn.Module | None = None) -> None:
        super().__init__()
        self.first = first
        self.act = act
        self.names = names

    def forward(self, x: Tensor, *args: object, **kwargs: object) -> Tensor:
        residual: Any = {**dict(zip(self.names, args, strict=False)), **kwargs}.get("residual")
        x = x if self.first is None else self.first(x)
        return self.act(x if residual is None else x + residual)

    def extra_repr(self) -> str:
        return f"arguments={self.names}"


class ChannelPad(nn.Module):
    """Pad each channel with its own value, which a following scale and shift turn into the zeros of a zero padding."""

    values: Tensor

    def __init__(self, pads: tuple[int, ...], values: Tensor) -> None:
        super().__init__()
        self.pads = pads
        self.register_buffer("values", values)

    def forward(self, x: Tensor) -> Tensor:
        return padded(x, self.pads, self.values)

    def extra_repr(self) -> str:
        return f"{len(self.values)}, pads={self.pads}"


class ChannelAffine(nn.Module):
    """``y = weight · x + bias`` of each channel, in the dtype of ``x``.

    The channels are dimension ``axis``, which may be counted from the end.
    """

    def __init__(self, weight: Tensor, bias: Tensor, axis: int, trained: bool) -> None:
        super().__init__()
        self.axis = axis
        self.weight = nn.Parameter(weight, trained)
        self.bias = nn.Parameter(bias, trained)

    def forward(self, x: Tensor) -> Tensor:
        if is_symbol(x):
            return as_node(self, x)
        column = (-1, *[1] * (-self.axis - 1 if self.axis < 0 else x.dim() - self.axis - 1))
        check_memory(x, self.weight, self.bias)
        y = guarded(x * self.weight.view(column), x, self.weight)
        return guarded(y + self.bias.view(column), self.bias).to(x.dtype)

    def extra_repr(self) -> str:
        return f"{self.weight.numel()}, axis={self.axis}"


def rest_of(norm: nn.Module, arguments: list[str]) -> nn.Module:
    """The module with the other steps of a normalizer (residual, activation, dropout); an Identity if there are
    none."""
    parts = parts_of(norm)
    if parts:
        return nn.Sequential(OrderedDict(parts))  # by their names, so that a state_dict keeps its keys
    name = activation_of(norm)
    act = nn.Identity() if name is None else MODULES[name]()
    return Epilogue(act, tuple(arguments)) if arguments else act


def does_nothing(rest: nn.Module) -> bool:
    return isinstance(rest, nn.Identity) or (
        isinstance(rest, nn.Sequential) and all(isinstance(part, nn.Identity) for part in rest)
    )


def affine_of(norm: nn.Module, found: ChannelMap, axis: int) -> nn.Module:
    """The affine layer that computes the same as a normalizer in evaluation."""
    weight = norm.weight if norm.weight is not None else norm.running_var
    like: Tensor = weight  # type: ignore[assignment]
    dtype = torch.promote_types(like.dtype, norm.running_var.dtype)  # type: ignore[union-attr, arg-type]
    scale, shift = (t.to(like.device, dtype) for t in found[:2])
    affine = ChannelAffine(scale, shift, axis, any(p.requires_grad for p in norm.parameters(recurse=False)))
    rest = rest_of(norm, [])
    return affine if isinstance(rest, nn.Identity) else nn.Sequential(OrderedDict(affine=affine, rest=rest))
