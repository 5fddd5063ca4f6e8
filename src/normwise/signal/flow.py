"""Where each tensor of a forward pass comes from: the part of the graph needed to recognize residual additions."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import NamedTuple

from torch import Tensor

from .readings import Reading


class Node:
    """One activation: its ancestors (itself included) as the bits of an integer, and its relations to others.

    scaled: the activation of which this one is a constant multiple.
    moved: the activation of which this one is a rearrangement.
    inside: the call of a leaf module in which it was computed; None elsewhere and for the outputs of the call.
    """

    __slots__ = ("ancestors", "axis", "index", "inside", "moved", "reading", "scaled")

    def __init__(self, index: int, ancestors: int, axis: int | None) -> None:
        self.index = index
        self.ancestors = ancestors | 1 << index
        self.axis = axis
        self.scaled: Node | None = None
        self.moved: Node | None = None
        self.inside: object | None = None
        self.reading: Reading | None = None


class Residual(NamedTuple):
    """The operands of a residual addition, and the activation from which both were computed."""

    skip: Node
    branch: Node
    origin: Node


class Flow:
    """The nodes of one forward pass, by tensor. Tensors are held weakly, constants (parameters) have no node."""

    def __init__(self, constants: Iterable[Tensor]) -> None:
        self._constants = list(constants)
        self._constant_ids = {id(t) for t in self._constants}
        self._known: dict[int, tuple[weakref.ref[Tensor], int, Node | None]] = {}
        self._nodes: list[Node] = []
        self._layers = 0
        self._inputs = 0

    def of(self, x: Tensor) -> Node | None:
        """The node of ``x``, or None for a constant.

        A tensor of unknown origin (from a kernel outside PyTorch's functions) counts as computed from all before it.
        """
        if id(x) in self._constant_ids:
            return None
        entry = self._known.get(id(x))
        if entry is None or entry[0]() is not x:
            return self._put(x, self._new((1 << len(self._nodes)) - 1, None)) if x.is_floating_point() else None
        known = entry[2]
        if known is not None and entry[1] != x._version:
            return self._put(x, self._new(known.ancestors, known.axis))
        return known

    def knows(self, x: Tensor) -> bool:
        """Whether ``x`` in its present version has been recorded."""
        entry = self._known.get(id(x))
        return entry is not None and entry[0]() is x and entry[1] == x._version

    def add_input(self, x: Tensor) -> None:
        node = self._put(x, self._new(0, None))
        self._inputs |= 1 << node.index

    def add(self, x: Tensor, parents: Iterable[Node], axis: int | None, *, layer: bool = False) -> Node | None:
        """Record ``x`` as computed from ``parents``; without parents it is a constant."""
        ancestors = 0
        for parent in parents:
            ancestors |= parent.ancestors
        if not ancestors:
            self._known[id(x)] = (weakref.ref(x), x._version, None)
            return None
        node = self._put(x, self._new(ancestors, axis))
        if layer:
            self.mark_layer(node)
        return node

    def mark_layer(self, node: Node) -> None:
        """Note that a layer computed this activation; residual branches consist of layers."""
        self._layers |= 1 << node.index

    def share(self, x: Tensor, node: Node) -> None:
        """``x`` is the same activation as ``node``'s."""
        self._put(x, node)

    def residual(self, a: Node, b: Node) -> Residual | None:
        """Which of two summands is the skip and which the residual branch; None if the sum is not residual.

        It is residual if both summands were computed from one activation, one of them through more layers: that is the
        branch. The other is the activation itself or a projection of it. With equally many layers (the gates of a
        recurrent cell, two terms of attention's scores) neither is a shortcut.
        """
        common = a.ancestors & b.ancestors
        if not common:
            return None
        origin = self._nodes[common.bit_length() - 1]
        sources = (a.ancestors | b.ancestors) & self._inputs
        # A condition (a time embedding, say) enters every block, so it is ignored if an input is also common.
        if sources and not origin.ancestors & (sources & -sources):
            return None
        in_a, in_b = (((n.ancestors & ~origin.ancestors) & self._layers).bit_count() for n in (a, b))
        if in_a == in_b:
            return None
        return Residual(b, a, origin) if in_a > in_b else Residual(a, b, origin)

    @property
    def size(self) -> int:
        """The number of nodes."""
        return len(self._nodes)

    def _new(self, ancestors: int, axis: int | None) -> Node:
        node = Node(len(self._nodes), ancestors, axis)
        self._nodes.append(node)
        return node

    def _put(self, x: Tensor, node: Node) -> Node:
        self._known[id(x)] = (weakref.ref(x), x._version, node)
        return node


def branch_end(node: Node) -> Node:
    """The end of a residual branch: before gains, scales, stochastic depth and rearrangements.

    A multiplication inside a leaf module (the weight of a hand-written normalizer) belongs to the module, unless the
    module does nothing else: activations inside leaf modules are not measured.
    """
    end, at = node, node
    while True:
        if at.scaled is not None:
            at = at.scaled
            if at.reading is not None:
                end = at
        elif at.moved is not None:
            at = at.moved
        else:
            return end
