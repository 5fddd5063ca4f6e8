"""The layers that a swap replaces, their successors, and their rows in the report."""

from __future__ import annotations

from collections import Counter
from typing import Any

from torch import Tensor, nn

from ..core.module_tree import Node, module_tree
from .drifting import ranks_of
from .given import Where, matching
from .successors import Maker, Successor, is_normalizer
from .swapped import SwappedLayer

_NAME = "swap"
_RANKS = {"1d": 1, "2d": 2, "3d": 3}


def chosen_normalizers(model: nn.Module, where: Where | None) -> dict[nn.Module, Node]:
    tree = module_tree(model)
    candidates = {module: node for module, node in tree.items() if is_normalizer(module)}
    if not candidates:
        raise ValueError(f"{_NAME}: {type(model).__name__} has no BatchNorm, InstanceNorm or GroupNorm layer.")
    return {layer: tree[layer] for layer in matching(candidates, where, _NAME)}


def ranks_for(model: nn.Module, layers: list[nn.Module], example: Any) -> dict[nn.Module, int]:
    """The number of spatial dimensions of each layer's input, from its class or from the example."""
    ranks = {layer: rank for layer in layers for end, rank in _RANKS.items() if type(layer).__name__.endswith(end)}
    return ranks if example is None else ranks | ranks_of(model, layers, example)


def successors_for(
    maker: Maker, layers: dict[nn.Module, Node], ranks: dict[nn.Module, int]
) -> dict[nn.Module, Successor]:
    holders = Counter(p for layer in layers for p in layer.parameters(recurse=False))
    copies: dict[int, Tensor] = {}
    made = {}
    for layer, node in layers.items():
        tied = any(holders[p] > 1 for p in layer.parameters(recurse=False))
        made[layer] = maker.make(layer, node.name, ranks.get(layer, 2), copies, tied)
        follow(made[layer].layer, layer)
    return made


def follow(layer: nn.Module, other: nn.Module) -> None:
    """Move a layer to the device and dtype of another one."""
    like = next((t for t in (*other.parameters(), *other.buffers()) if t.is_floating_point()), None)
    if like is not None:
        layer.to(like.device, like.dtype)


def row_of(node: Node, kept: str | None, made: Successor | None, drift: float | None) -> SwappedLayer:
    old = described(node.module)
    if made is None:
        return SwappedLayer(node.name, old, None, "kept", kept)
    return SwappedLayer(node.name, old, described(made.layer), "swapped", "; ".join(made.notes) or None, drift)


def described(layer: nn.Module) -> str:
    """A short description of a layer, such as "GroupNorm(2, 16)"."""
    norm = layer.get_submodule("norm") if "norm" in layer._modules else layer
    if isinstance(norm, nn.GroupNorm):
        return f"{type(norm).__name__}({norm.num_groups}, {norm.num_channels})"
    channels = getattr(norm, "num_features", None)
    return type(norm).__name__ if channels is None else f"{type(norm).__name__}({channels})"
