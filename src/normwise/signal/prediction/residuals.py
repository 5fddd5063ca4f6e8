"""Residual additions in a graph: a branch with layers of its own is added to a shortcut."""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn

from .gaussian import Signal
from .graph import Structure, numbered
from .modules import rule_of

_ADDITIONS = (operator.add, operator.iadd, torch.add, "add", "add_")
_PRODUCTS = (operator.mul, operator.imul, torch.mul, "mul", "mul_", operator.truediv, torch.div)
# What may stand between the end of a branch and its addition.
_TAIL_MODULES = ("SkipGain", "StochasticDepth", "DropPath", "LayerScale", "Dropout", "Dropout2d", "Identity")
_TAIL_FUNCTIONS = ("stochastic_depth", "drop_path", "dropout")
_LINEAR = ("linear", "conv1d", "conv2d", "conv3d", "matmul", "scaled_dot_product_attention")


class Residual(NamedTuple):
    """A residual addition in the module ``path``: its sum and the end of its branch."""

    name: str
    path: str
    sum: fx.Node
    branch: fx.Node


def residuals_of(structure: Structure, values: Mapping[fx.Node, Any]) -> list[Residual]:
    """Every addition of two signals of one shape that come from one place, one of them by more layers."""
    depths = _Depths(structure)
    found: list[Residual] = []
    times: Counter[str] = Counter()
    for node in structure.graph.nodes:
        operands = _operands(structure.root, node, values)
        branch = depths.branch(*operands) if operands else None
        if branch is not None:
            path = node.meta.get("scope", "")
            times[path] += 1
            name = numbered(path, structure.root, times[path])
            found.append(Residual(name, path, node, _end(structure.root, branch, values)))
    return found


def _operands(root: nn.Module, node: fx.Node, values: Mapping[fx.Node, Any]) -> list[fx.Node] | None:
    adds = node.target in _ADDITIONS
    if node.op == "call_module" and rule_of(root.get_submodule(str(node.target))) is not None:
        adds = len(node.all_input_nodes) == 2  # a normalizer with residual=
    nodes = [n for n in node.all_input_nodes if isinstance(values[n], Signal)]
    return nodes if adds and len(nodes) == 2 and values[nodes[0]].shape == values[nodes[1]].shape else None


class _Depths:
    """Of each node: how many layers with weights lie between it and each of the nodes that it comes from."""

    def __init__(self, structure: Structure) -> None:
        self.order = {node: i for i, node in enumerate(structure.graph.nodes)}
        self.weighted = {node: _has_weights(structure.root, node) for node in structure.graph.nodes}

    def branch(self, a: fx.Node, b: fx.Node) -> fx.Node | None:
        """Which of two operands is the branch: the one that is further from where they part."""
        from_a, from_b = self._sources(a), self._sources(b)
        common = from_a.keys() & from_b.keys()
        if not common:
            return None
        fork = max(common, key=self.order.__getitem__)
        ahead = from_a[fork] - from_b[fork]
        if ahead == 0 or min(from_a[fork], from_b[fork]) > 1:  # a shortcut has at most a projection
            return None
        return a if ahead > 0 else b

    def _sources(self, node: fx.Node) -> dict[fx.Node, int]:
        """Every node it comes from, with the most layers on a way there."""
        depth = {node: 0}
        waiting = {node}
        while waiting:
            here = max(waiting, key=self.order.__getitem__)
            waiting.remove(here)
            for source in here.all_input_nodes:
                if source.op != "get_attr":
                    depth[source] = max(depth.get(source, 0), depth[here] + self.weighted[here])
                    waiting.add(source)
        return depth


def _has_weights(root: nn.Module, node: fx.Node) -> bool:
    if node.op == "call_module":
        return any(p.dim() > 1 for p in root.get_submodule(str(node.target)).parameters())
    return getattr(node.target, "__name__", "") in _LINEAR


def _end(root: nn.Module, node: fx.Node, values: Mapping[fx.Node, Any]) -> fx.Node:
    """Back over gains, scales, stochastic depth and dropout."""
    while _is_tail(root, node, values):
        node = next(n for n in node.all_input_nodes if isinstance(values[n], Signal))
    return node


def _is_tail(root: nn.Module, node: fx.Node, values: Mapping[fx.Node, Any]) -> bool:
    if node.op == "call_module":
        return type(root.get_submodule(str(node.target))).__name__ in _TAIL_MODULES
    if getattr(node.target, "__name__", "") in _TAIL_FUNCTIONS:
        return True
    if node.target not in _PRODUCTS:
        return False
    others = [values[n] if isinstance(n, fx.Node) else n for n in node.args]
    return sum(isinstance(v, Signal) for v in others) == 1 and all(_is_scale(v) for v in others)


def _is_scale(value: Any) -> bool:
    return isinstance(value, (Signal, float, int)) or (
        isinstance(value, Tensor) and max(value.shape, default=1) == value.numel()
    )
