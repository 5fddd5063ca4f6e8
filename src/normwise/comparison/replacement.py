"""Normalization layers of a model that is not ours: found, and replaced by another normalizer."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from ..core.model_change import ModelChange
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

    Wherever a layer is held the new one is, with its hooks, mode and foreign attributes; after an error the model is as
    it was. The `drop` and `act` of a layer that has both (timm's BatchNormAct2d, GroupNormAct) follow the new layer,
    `act` unless the new layer activates by itself.
    In-place activations become ordinary ones: after a normalizer that is gone they would overwrite its input,
    which a shortcut may still need.
    """
    names = []
    layers = normalization_layers(model)
    with ModelChange(model, "compare") as change:
        for name, rank in ranks.items():
            old = layers[name]
            new, behind = _build(norm, old, rank), _behind(old)
            if behind is None:
                change.replace(old, new)
                names.append(name)
            else:
                drop, act = behind
                act = nn.Identity() if activates(new) else act
                change.replace(old, nn.Sequential(OrderedDict(norm=new, drop=drop, act=act)))
                names.append(f"{name}.norm")
        for module in change.model.modules():
            if hasattr(module, "inplace"):
                change.set(module, "inplace", False)
    return names


def _behind(layer: nn.Module) -> tuple[nn.Module, nn.Module] | None:
    drop, act = getattr(layer, "drop", None), getattr(layer, "act", None)
    return (drop, act) if isinstance(drop, nn.Module) and isinstance(act, nn.Module) else None


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
