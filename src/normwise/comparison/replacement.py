"""Normalization layers of a model that is not ours: found, and replaced by another normalizer."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from ..layers import Norm, activates, make_norm
from .isolation import listening
from .settings import InputError


def normalization_layers(model: nn.Module) -> dict[str, nn.Module]:
    """BatchNorm, GroupNorm and InstanceNorm layers, torch's and every subclass, by name."""
    return {n: m for n, m in model.named_modules() if isinstance(m, (_BatchNorm, _InstanceNorm, nn.GroupNorm))}


def check_replaceable(model: nn.Module, name: str) -> None:
    """Raises InputError where there is no layer that `replace_normalizers` can replace."""
    if normalization_layers(model):
        return
    rows = sum(isinstance(module, (nn.LayerNorm, nn.RMSNorm)) for module in model.modules())
    if rows:
        raise InputError(
            f"{name}: its normalization cannot be replaced: it has {rows} LayerNorm or RMSNorm layers over the last "
            "dimension, which normalize tokens and not channel maps. Choose a model with BatchNorm, GroupNorm or "
            "InstanceNorm layers."
        )
    raise InputError(
        f"{name}: its normalization cannot be replaced: it has no BatchNorm, GroupNorm or InstanceNorm layer. "
        "Write a function that takes `norm` and builds its layers with normwise.layers.make_norm(norm, channels)."
    )


def run_with_maps(model: nn.Module, x: Tensor) -> tuple[Any, dict[str, tuple[int, ...]]]:
    """`model(x)`, and the shape of the map, without N and C, that reached each normalization layer that it ran."""
    maps: dict[str, tuple[int, ...]] = {}
    layers = normalization_layers(model)
    with torch.no_grad(), listening(layers, lambda name, signal: maps.update({name: tuple(signal.shape[2:])})):
        return model(x), maps


def replace_normalizers(model: nn.Module, norm: Norm, ranks: Mapping[str, int]) -> list[str]:
    """Replace in place each layer named in `ranks` by `norm`; returns the names of the new layers.

    The `drop` and `act` of a layer that has both (timm's BatchNormAct2d, GroupNormAct) follow the new layer, `act`
    unless the new layer activates by itself.
    In-place activations become ordinary ones: after a normalizer that is gone they would overwrite its input,
    which a shortcut may still need.
    """
    names = []
    layers = normalization_layers(model)
    for name, rank in ranks.items():
        old = layers[name]
        new = _build(norm, old, rank)
        drop, act = getattr(old, "drop", None), getattr(old, "act", None)
        if isinstance(drop, nn.Module) and isinstance(act, nn.Module):
            behind = nn.Identity() if activates(new) else act
            _set(model, old, nn.Sequential(OrderedDict(norm=new, drop=drop, act=behind)))
            names.append(f"{name}.norm")
        else:
            _set(model, old, new)
            names.append(name)
    for module in model.modules():
        if hasattr(module, "inplace"):
            module.inplace = False  # type: ignore[assignment]
    return names


def _build(norm: Norm, old: nn.Module, rank: int) -> nn.Module:
    channels = old.num_channels if isinstance(old, nn.GroupNorm) else old.num_features
    if rank == 0 and isinstance(norm, str) and norm == "instance":
        raise ValueError("InstanceNorm has one value per sample and channel on features [N, C]; leave 'instance' out.")
    layer = make_norm(norm, channels, rank=max(rank, 1))  # type: ignore[arg-type]
    _carry_affine(old, layer)
    return layer


@torch.no_grad()
def _carry_affine(old: nn.Module, new: nn.Module) -> None:
    """A weight or bias that the model moved away from 1 and 0 (a last weight of zero, trained values) is kept."""
    for name, default in (("weight", 1.0), ("bias", 0.0)):
        before, after = getattr(old, name, None), getattr(new, name, None)
        if not isinstance(before, Tensor) or not isinstance(after, Tensor) or before.shape != after.shape:
            continue
        if (before != default).any():
            after.copy_(before)


def _set(model: nn.Module, old: nn.Module, new: nn.Module) -> None:
    """Put `new` wherever `old` is registered: a layer may be shared."""
    for parent in list(model.modules()):
        for name, child in parent._modules.items():  # named_children() names a shared child once
            if child is old:
                parent._modules[name] = new
