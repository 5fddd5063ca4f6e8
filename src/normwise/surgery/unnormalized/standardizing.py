"""Replace plain layers by ones with scaled weight standardization, and compute their gains."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ...core.inheritance import HOOKS
from ...core.precision import in_fp64
from ...signal.prediction.modules import rule_of
from ...weights.convolutions import ScaledWSConv1d, ScaledWSConv2d, ScaledWSConv3d, WSConv1d, WSConv2d, WSConv3d
from ...weights.layers import LAYERS, FanIn
from ...weights.standardization import scaled_weight_standardization
from ..folding.layers import has_hooks

_SUCCESSORS = {
    **dict.fromkeys((nn.Conv1d, WSConv1d), ScaledWSConv1d),
    **dict.fromkeys((nn.Conv2d, WSConv2d), ScaledWSConv2d),
    **dict.fromkeys((nn.Conv3d, WSConv3d), ScaledWSConv3d),
}
_SCALED = (ScaledWSConv1d, ScaledWSConv2d, ScaledWSConv3d)


def is_layer(module: nn.Module) -> bool:
    return isinstance(module, LAYERS)


def why_not(layer: nn.Module) -> str | None:
    """Why a layer's weight cannot be standardized, as the end of a sentence; None if it can."""
    if parametrize.is_parametrized(layer):
        return "has a parametrized weight; write it out first, nw.bake(model)"
    if not isinstance(layer.weight, nn.Parameter) or rule_of(layer) is None:
        return "has its own forward or a special weight, which cannot be standardized"
    if has_hooks(layer) and any("WeightNorm" in type(h).__name__ for h in layer._forward_pre_hooks.values()):
        return "has a weight that a hook computes in each call; write it out first, nw.bake(model)"
    if FanIn.of(layer).size(layer.weight) < 2:
        return "has a single weight for each output, which standardization would make 0"
    return None


def standardized(layer: nn.Module, gamma: float) -> nn.Module:
    """A layer that standardizes the same weight (the same object), with a bias and a gain of 1."""
    successor_class = _SUCCESSORS.get(type(layer))  # type: ignore[arg-type]
    if successor_class is not None:
        return _convolution(successor_class, layer, gamma)
    return _twin(layer) if isinstance(layer, _SCALED) else _parametrized(layer, gamma)


def _convolution(successor_class: type[nn.Module], layer: nn.Module, gamma: float) -> nn.Module:
    names = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups")
    given = {name: getattr(layer, name) for name in names}
    new = successor_class(**given, padding_mode=layer.padding_mode, gamma=gamma)
    new.weight = layer.weight
    if layer.bias is not None:
        new.bias = layer.bias
    return new


def _twin(layer: nn.Module) -> nn.Module:
    new = copy.deepcopy(layer)
    new.weight = layer.weight
    for hooks in HOOKS:  # they are handed over as those of every successor
        setattr(new, hooks, type(getattr(new, hooks))())
    return new


def _parametrized(layer: nn.Module, gamma: float) -> nn.Module:
    new = _twin(layer)
    scaled_weight_standardization(new, gamma=gamma)
    new.parametrizations.weight.original = layer.weight  # type: ignore[union-attr]
    units = FanIn.of(layer).units(layer.weight)  # type: ignore[arg-type]
    new.bias = nn.Parameter(layer.weight.new_zeros(units)) if layer.bias is None else layer.bias  # type: ignore[operator]
    return new


def gain_of(layer: nn.Module) -> tuple[nn.Module, float]:
    """The module with a standardized layer's ``gain``, and its γ."""
    holder = layer.parametrizations.weight[0] if parametrize.is_parametrized(layer) else layer  # type: ignore[union-attr, index]
    return holder, holder.gamma  # type: ignore[return-value]


def own_size(layer: nn.Module) -> Tensor:
    """The gain of each unit, in fp64, for which the standardized weight equals the original one minus its mean."""
    holder, _ = gain_of(layer)
    weight: Tensor = layer.parametrizations.weight.original if holder is not layer else layer.weight  # type: ignore[union-attr, assignment]
    fan_in = FanIn.of(layer)
    blocks = fan_in.blocks(in_fp64(weight.detach()))
    axes = fan_in.axes(blocks)
    energy = (blocks - blocks.mean(axes, keepdim=True)).square().sum(axes)
    return energy.clamp_min(holder.eps).sqrt().flatten()  # type: ignore[arg-type]


def fresh_bias(layer: nn.Module) -> None:
    """Give the layer a separate copy of its bias, so that its values can be changed."""
    layer.bias = nn.Parameter(torch.clone(layer.bias.detach()), layer.bias.requires_grad)  # type: ignore[operator, union-attr]
