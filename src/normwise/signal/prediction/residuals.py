"""Find residual additions in a graph: the sums of a branch with layers and a shortcut."""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Mapping
from functools import reduce
from operator import or_
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn

from .gaussian import Signal
from .graph import Structure, numbered
from .modules import rule_of

_ADDITIONS = (operator.add, operator.iadd, torch.add, "add", "add_")
_PRODUCTS = (operator.mul, operator.imul, torch.mul, "mul", "mul_", operator.truediv, torch.div)
# Modules that may come between the end of a branch and its addition.
_TAIL_MODULES = ("SkipGain", "StochasticDepth", "DropPath", "LayerScale", "Dropout", "Dropout2d", "Identity")
_TAIL_FUNCTIONS = ("stochastic_depth", "drop_path", "dropout")
_LINEAR = ("linear", "conv1d", "conv2d", "conv3d", "matmul", "scaled_dot_product_attention")


class Residual(NamedTuple):
    """A residual addition in the module ``path``: its sum, the end of its branch, and the fork of branch and skip."""

    name: str
    path: str
    sum: fx.Node
    branch: fx.Node
    origin: fx.Node


def residuals_of(structure: Structure, values: Mapping[fx.Node, Any]) -> list[Residual]:
    """Every addition of two signals of equal shape with a common origin, one of them through more layers."""
    ancestry = _Ancestry(structure, values)
    found: list[Residual] = []
    times: Counter[str] = Counter()
    for node in structure.graph.nodes:
        operands = _operands(structure.root, node, values)
        parts = ancestry.parts(*operands) if operands else None
        if parts is not None:
            branch, origin = parts
            path = node.meta.get("scope", "")
            times[path] += 1
            name = numbered(path, structure.root, times[path])
            found.append(Residual(name, path, node, _end(structure.root, branch, values), origin))
    return found


def _operands(root: nn.Module, node: fx.Node, values: Mapping[fx.Node, Any]) -> list[fx.Node] | None:
    adds = node.target in _ADDITIONS
    if node.op == "call_module" and rule_of(root.get_submodule(str(node.target))) is not None:
        adds = len(node.all_input_nodes) == 2  # a normalizer with residual=
    nodes = [n for n in node.all_input_nodes if isinstance(values[n], Signal)]
    return nodes if adds and len(nodes) == 2 and values[nodes[0]].shape == values[nodes[1]].shape else None


class _Ancestry:
    """The ancestors of each node (itself included) and the layers among them, as the bits of integers."""

    def __init__(self, structure: Structure, values: Mapping[fx.Node, Any]) -> None:
        self._values = values
        self._nodes = list(structure.graph.nodes)
        called = {call.node for call in structure.calls}
        self._layers = self._inputs = 0
        self._of: dict[fx.Node, int] = {}
        for i, node in enumerate(self._nodes):
            mine = 0 if node.op == "get_attr" else 1 << i
            self._of[node] = reduce(or_, (self._of[source] for source in node.all_input_nodes), mine)
            if node.op == "placeholder":
                self._inputs |= mine
            if (node in called and not self._is_passed_on(node)) or getattr(node.target, "__name__", "") in _LINEAR:
                self._layers |= mine

    def parts(self, a: fx.Node, b: fx.Node) -> tuple[fx.Node, fx.Node] | None:
        """Which of two operands is the branch (the one with more layers since their fork), and the fork."""
        common = self._of[a] & self._of[b]
        if not common:
            return None
        parting = self._nodes[common.bit_length() - 1]
        origin = self._of[parting]
        sources = (self._of[a] | self._of[b]) & self._inputs
        # A condition (a time embedding) enters every block, so it is ignored if an input is also common.
        if not origin & (sources & -sources):
            return None
        in_a, in_b = ((self._of[n] & ~origin & self._layers).bit_count() for n in (a, b))
        return None if in_a == in_b else (a if in_a > in_b else b, parting)

    def _is_passed_on(self, node: fx.Node) -> bool:
        """Whether a node returns its input, as Identity and dropout do."""
        return any(self._values[source] is self._values[node] for source in node.all_input_nodes)


def _end(root: nn.Module, node: fx.Node, values: Mapping[fx.Node, Any]) -> fx.Node:
    """The end of a branch, before gains, scales, stochastic depth and dropout."""
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
