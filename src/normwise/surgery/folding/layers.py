"""Convolutions and linear layers: the new weight and bias for a scale and shift of their input or output."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ...core.precision import in_fp64
from ...weights.layers import CONVOLUTIONS, LAYERS, TRANSPOSED, FanIn, StandardizedConv

#: Of other libraries, by the module that defines `forward`: a convolution behind a padding that depends on the input.
_LIKE_CONVOLUTIONS = frozenset({"timm.layers.conv2d_same.Conv2dSame.forward"})
_OF_TORCH = "torch.nn.modules."


class Refit(NamedTuple):
    """A layer's new weight and bias, in fp64, and whether its padding has moved in front of it.

    ``pads`` and ``values``: that padding, as `F.pad` takes it, and the value of each channel.
    """

    weight: Tensor
    bias: Tensor
    pads: tuple[int, ...] = ()
    values: Tensor | None = None

    def attributes(self, layer: nn.Module) -> Iterator[tuple[str, Any]]:
        """The attributes to set in the layer, as names and values."""
        like: Tensor = layer.weight.detach()  # type: ignore[assignment, operator, union-attr]
        trained = any(p.requires_grad for p in layer.parameters(recurse=False))
        yield "weight", nn.Parameter(torch.empty_like(like).copy_(self.weight), layer.weight.requires_grad)  # type: ignore[union-attr, arg-type]
        yield "bias", nn.Parameter(self.bias.to(like.device, like.dtype), trained)
        if self.pads:
            yield "padding", "valid" if isinstance(layer.padding, str) else (0,) * len(layer.kernel_size)  # type: ignore[arg-type]
            yield "_reversed_padding_repeated_twice", [0] * len(self.pads)

    def twin(self, layer: nn.Module) -> nn.Module:
        """A new layer like the given one, with the new tensors."""
        twin = copy.copy(layer)
        twin._parameters = dict(layer._parameters)
        for name, value in self.attributes(layer):
            (twin._parameters if isinstance(value, nn.Parameter) else vars(twin))[name] = value
        return twin


def is_layer(module: nn.Module) -> bool:
    return isinstance(module, LAYERS)


def why_not(layer: nn.Module) -> str | None:
    """Why a layer computes something else than its weight and bias say; None if it does not."""
    layer_class = parametrize.type_before_parametrizations(layer)
    if parametrize.is_parametrized(layer):
        names = sorted({type(p).__name__ for chain in layer.parametrizations.values() for p in chain})  # type: ignore[union-attr]
        return f"its {' and '.join(layer.parametrizations)} is parametrized ({', '.join(names)})"  # type: ignore[arg-type]
    if isinstance(layer, StandardizedConv):
        return "it standardizes its weight at each call; bake=True writes it out"
    if has_hooks(layer):
        return "it has hooks, which would get other values"
    if not _is_known(layer_class) or "forward" in vars(layer) or "_conv_forward" in vars(layer):
        return f"{layer_class.__name__} has a forward of its own"
    weight = layer._parameters.get("weight")
    if weight is None:
        return "its weight is no parameter"
    if type(weight) is not nn.Parameter:
        return f"its weight is a {type(weight).__name__}, which is no plain tensor"
    return None if weight.is_floating_point() else f"its weight is {weight.dtype}"


def has_hooks(module: nn.Module) -> bool:
    """Whether a module has forward or backward hooks."""
    hooks = (
        *(module._forward_hooks, module._forward_pre_hooks),
        *(module._backward_hooks, module._backward_pre_hooks),
    )
    return any(hooks)


def _is_known(layer_class: type[nn.Module]) -> bool:
    places = [
        f"{f.__module__}.{f.__qualname__}"
        for f in (layer_class.forward, getattr(layer_class, "_conv_forward", layer_class.forward))
    ]
    return all(place.startswith(_OF_TORCH) or place in _LIKE_CONVOLUTIONS for place in places)


def channel_axis(layer: nn.Module, dims: int) -> int:
    """The channel dimension of a tensor of ``dims`` dimensions; a convolution also accepts an unbatched sample."""
    return dims - 1 if isinstance(layer, nn.Linear) else dims - 1 - len(layer.kernel_size)  # type: ignore[arg-type]


def tensors_of(layer: nn.Module) -> tuple[Tensor, Tensor]:
    """Weight and bias in fp64, detached."""
    weight: Tensor = in_fp64(layer.weight.detach())  # type: ignore[operator, union-attr, arg-type]
    if layer.bias is not None:
        return weight, in_fp64(layer.bias.detach())  # type: ignore[operator, union-attr, arg-type]
    return weight, weight.new_zeros(FanIn.of(layer).units(weight))


def behind(layer: nn.Module, tensors: Refit, scale: Tensor, shift: Tensor) -> Refit:
    r"""Scale and shift the output: :math:`W' = sW,\ b' = sb + t`."""
    fan_in = FanIn.of(layer)
    blocks = fan_in.blocks(tensors.weight)
    weight = (blocks * fan_in.per_unit(scale, blocks)).reshape(tensors.weight.shape)
    return tensors._replace(weight=weight, bias=tensors.bias * scale + shift)


def in_front(layer: nn.Module, tensors: Refit, scale: Tensor, shift: Tensor) -> Refit | str:
    r"""Scale and shift the input: :math:`W' = Ws,\ b' = b + \sum W t`; or the reason why the result would differ."""
    weight, _, pads, values = tensors
    if isinstance(layer, TRANSPOSED):
        if shift.any():
            return "a transposed convolution spreads a shift unevenly over its output"
        return tensors._replace(weight=weight * scale.view(-1, *[1] * (weight.dim() - 1)))
    if isinstance(layer, CONVOLUTIONS) and type(layer).__name__ == "Conv2dSame":
        return f"{type(layer).__name__} pads with zeros inside its forward, which the shift would not reach"
    if pads or (shift.any() and _pads_with_zeros(layer)):
        pads = pads or tuple(layer._reversed_padding_repeated_twice)  # type: ignore[arg-type]
        before = torch.zeros_like(shift) if values is None else values
        if bool(((scale == 0) & (shift != before)).any()):
            return "a channel is constant (γ = 0) and its convolution pads with zeros, which no other padding replaces"
        values = torch.where(scale == 0, 0.0, (before - shift) / scale)
    scaled = _per_input(layer, weight, scale).flatten(0, 1)
    return Refit(scaled, with_shift(layer, tensors, shift), pads, values)


def with_shift(layer: nn.Module, tensors: Refit, shift: Tensor) -> Tensor:
    r"""The bias where the input is shifted everywhere: :math:`b + \sum W t`; a transposed layer has no shift."""
    if isinstance(layer, TRANSPOSED):
        return tensors.bias
    return tensors.bias + _per_input(layer, tensors.weight, shift).flatten(2).sum(2).flatten()


def _per_input(layer: nn.Module, weight: Tensor, values: Tensor) -> Tensor:
    """The weight, ``[groups, out / groups, in / groups, *kernel]``, times a value of each input channel."""
    groups = layer.groups if isinstance(layer, CONVOLUTIONS) else 1
    return weight.unflatten(0, (groups, -1)) * values.view(groups, 1, -1, *[1] * (weight.dim() - 2))


def _pads_with_zeros(layer: nn.Module) -> bool:
    if not isinstance(layer, CONVOLUTIONS) or layer.padding_mode != "zeros":
        return False
    return any(layer._reversed_padding_repeated_twice)


def computed(layer: nn.Module, tensors: Refit, x: Tensor, beside: Mapping[str | int, Any]) -> Tensor:
    """The layer's output with these tensors and the other arguments of its call, such as ``output_size``."""
    if tensors.values is not None:
        x = padded(x, tensors.pads, tensors.values)
    args = [beside[key] for key in sorted(key for key in beside if isinstance(key, int))]
    return tensors.twin(layer).forward(x, *args, **{key: v for key, v in beside.items() if isinstance(key, str)})


def sizes_of_terms(layer: nn.Module, tensors: Refit, x: Tensor, beside: Mapping[str | int, Any]) -> Tensor:
    """For each output value the sum of the magnitudes of the layer's products, without the bias."""
    values = None if tensors.values is None else tensors.values.abs()
    sizes = Refit(tensors.weight.abs(), torch.zeros_like(tensors.bias), tensors.pads, values)
    return computed(layer, sizes, x.abs(), beside)


def padded(x: Tensor, pads: tuple[int, ...], values: Tensor) -> Tensor:
    """``x`` padded with one value per channel; the channel axis is the one before the padded axes."""
    column = values.to(x.device, x.dtype).view(-1, *[1] * (len(pads) // 2))
    inside = F.pad(torch.ones(x.shape[-(len(pads) // 2) :], dtype=x.dtype, device=x.device), pads)
    return F.pad(x, pads) + column * (1 - inside)
