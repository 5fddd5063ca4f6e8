"""Find the normalization layers of any model and replace them by another normalizer."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.instancenorm import _InstanceNorm

from ...core.model_change import ModelChange
from ...errors import InputError
from ...layers import Norm, activates, make_norm
from ...layers.remembering import memory_of, remembers_instances
from ...signal.protection import as_it_was
from ..isolation import listening
from ..references import name_of
from .token_layers import is_for_tokens, leave_fast_path, token_layer, token_layers

# The "rank" of a layer that normalizes tokens [*, C].
TOKENS = -1
_OF_MAPS = "BatchNorm, InstanceNorm or GroupNorm layer"


def normalization_layers(model: nn.Module) -> dict[str, nn.Module]:
    """BatchNorm, GroupNorm and InstanceNorm layers, torch's and every subclass, by name."""
    return {n: m for n, m in model.named_modules() if isinstance(m, (_BatchNorm, _InstanceNorm, nn.GroupNorm))}


def check_replaceable(model: nn.Module, name: str) -> None:
    """Raises InputError if the model has no layer that `replace_normalizers` can replace."""
    if normalization_layers(model) or token_layers(model):
        return
    raise InputError(
        f"{name}: its normalization cannot be replaced: it has no BatchNorm, GroupNorm or InstanceNorm layer, and no "
        "LayerNorm or RMSNorm over the last dimension. Write a function that takes `norm` and builds its layers with "
        "normwise.layers.make_norm(norm, channels)."
    )


def run_with_maps(model: nn.Module, x: Tensor) -> tuple[Any, dict[str, tuple[int, ...]]]:
    """`model(x)`, and for each normalization layer that ran the shape of its input without N and C."""
    maps: dict[str, tuple[int, ...]] = {}
    layers = normalization_layers(model)
    with torch.no_grad(), listening(layers, lambda name, signal: maps.update({name: tuple(signal.shape[2:])})):
        return model(x), maps


def ranks_by_class(model: nn.Module) -> dict[str, int]:
    """The number of spatial dimensions of each layer's maps, from the layer's class or the model's convolutions."""
    convolutions = [module for module in model.modules() if isinstance(module, _ConvNd)]
    usual = len(convolutions[0].kernel_size) if convolutions else 2
    return {name: _rank_of_class(layer, usual) for name, layer in normalization_layers(model).items()}


def _rank_of_class(layer: nn.Module, usual: int) -> int:
    named = {base.__name__[-2:] for base in type(layer).__mro__ if issubclass(base, _NormBase)}
    return next((rank for end, rank in (("1d", 1), ("2d", 2), ("3d", 3)) if end in named), usual)


def ranks_of_model(model: nn.Module, example: Any = None) -> dict[str, int]:
    """The number of spatial dimensions of each layer's maps: measured with an example, or taken from the classes."""
    if example is None:
        return ranks_by_class(model)
    with as_it_was(model):
        return {name: len(shape) for name, shape in run_with_maps(model.eval(), example)[1].items()}


def replaceable_by(model: nn.Module, norm: Norm, ranks: Mapping[str, int]) -> dict[str, int]:
    """The layers that `norm` can replace, with their ranks: those in `ranks`, or layers of tokens (rank `TOKENS`).

    A normalizer for both ("none", a class, a function) replaces the layers of maps if there are any.
    """
    tokens = dict.fromkeys(token_layers(model), TOKENS)
    if is_for_tokens(norm):
        return tokens
    undecided = not isinstance(norm, str) or norm == "none"
    return dict(ranks) if ranks or not undecided else tokens


def replace_in_place(model: nn.Module, norm: Norm, example: Any = None) -> None:
    """Replace the normalizers of a model by `norm`, with their device and dtype.

    Raises ValueError if the model has no layer that `norm` can replace.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"run.replace takes a torch.nn.Module, received {type(model).__name__}.")
    places = replaceable_by(model, norm, ranks_of_model(model, example))
    if not places:
        needed = "LayerNorm or RMSNorm layer over the last dimension" if is_for_tokens(norm) else _OF_MAPS
        raise ValueError(f"run.replace: {type(model).__name__} has no {needed}, which {name_of(norm)!r} could replace.")
    replace_normalizers(model, norm, places)


def replace_normalizers(model: nn.Module, norm: Norm, ranks: Mapping[str, int]) -> list[str]:
    """Replace in place each layer named in `ranks` by `norm`; returns the names of the new layers.

    The new layer takes every place of the old one, with its hooks, mode and attributes. A layer with running statistics
    starts from those of the old one. After an error the model is unchanged. The `drop` and `act` of a layer that has
    both (timm's BatchNormAct2d, GroupNormAct) are applied after the new layer, `act` only if the new layer has no
    activation of its own. In-place activations become ordinary ones: without a normalizer before them they would
    overwrite an input that a shortcut may still need.
    """
    names = []
    layers = normalization_layers(model) | token_layers(model)
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
            if TOKENS in ranks.values():
                leave_fast_path(module, change)
    return names


def _behind(layer: nn.Module) -> tuple[nn.Module, nn.Module] | None:
    drop, act = getattr(layer, "drop", None), getattr(layer, "act", None)
    return (drop, act) if isinstance(drop, nn.Module) and isinstance(act, nn.Module) else None


def _build(norm: Norm, old: nn.Module, rank: int) -> nn.Module:
    layer = token_layer(norm, old) if rank == TOKENS else _channel_layer(norm, old, rank)
    like = next((t for t in old.parameters() if t.is_floating_point()), None)
    return layer if like is None else layer.to(like.device, like.dtype)


def _channel_layer(norm: Norm, old: nn.Module, rank: int) -> nn.Module:
    channels = old.num_channels if isinstance(old, nn.GroupNorm) else old.num_features
    if rank == 0 and isinstance(norm, str) and norm == "instance":
        raise ValueError("InstanceNorm has one value per sample and channel on features [N, C]; leave 'instance' out.")
    layer = make_norm(norm, channels, rank=max(rank, 1))  # type: ignore[arg-type]
    _carry_affine(old, layer)
    _carry_memory(old, layer)
    return layer


@torch.no_grad()
def _carry_memory(old: nn.Module, new: nn.Module) -> None:
    """Copy running statistics that training has changed, with their eps, if both layers have the same pool."""
    theirs, ours = memory_of(old), memory_of(new)
    if theirs is None or ours is None or remembers_instances(old) != remembers_instances(new):
        return
    if (theirs.mean == 0).all() and (theirs.var == 1).all():
        return
    for mine, value in zip(ours, theirs, strict=True):
        if mine is not None and value is not None:
            mine.copy_(value)
    if isinstance(eps := getattr(old, "eps", None), float):
        new.eps = eps  # type: ignore[assignment]


@torch.no_grad()
def _carry_affine(old: nn.Module, new: nn.Module) -> None:
    """Copy a weight or bias that is not 1 or 0 everywhere (trained values, or a weight initialized with zeros)."""
    for name, default in (("weight", 1.0), ("bias", 0.0)):
        before, after = getattr(old, name, None), getattr(new, name, None)
        if not isinstance(before, Tensor) or not isinstance(after, Tensor) or before.shape != after.shape:
            continue
        if (before != default).any():
            after.copy_(before)
