"""The part of a net that an activation belongs to (attention, MLP, decoder), from the operations on the way to it."""

from __future__ import annotations

import math
import re

from torch import Tensor

from .flow import Node, Residual

Part = str
ATTENTION = frozenset({"scaled_dot_product_attention", "multi_head_attention_forward", "_native_multi_head_attention"})
# Products of two activations: attention scores, and the weighted sum of values.
PRODUCTS = frozenset({"matmul", "__matmul__", "__rmatmul__", "bmm", "baddbmm", "einsum"})
LINEAR = frozenset({"linear", "addmm"})
OVER_SPACE = re.compile(r"(conv(_transpose)?|\w*pool|unpool)[123]d|interpolate|upsample\w*|pixel_(un)?shuffle")
CONVOLUTION = re.compile(r"conv(_transpose)?[123]d$")
CHANGED = 1.5
"""By this factor the number of positions grows or shrinks where an operation counts as one that changes resolution."""


class Parts:
    """Notes the class of operation that computed each node, as the bits of integers, like the nodes' ancestors."""

    def __init__(self) -> None:
        self._attention = self._linear = self._convolution = self._up = self._down = 0

    def note(self, name: str, node: Node, out: Tensor, operands: list[tuple[Tensor, Node]]) -> None:
        """Note the effect of the operation ``name``, which computed a node from these activations."""
        bit = 1 << node.index
        if name in ATTENTION or (name in PRODUCTS and len(operands) > 1):
            self._attention |= bit
        elif name in LINEAR:
            self._linear |= bit
        elif OVER_SPACE.fullmatch(name) and operands:
            if CONVOLUTION.match(name):
                self._convolution |= bit
            before, after = (math.prod(x.shape[2:]) for x in (operands[0][0], out))
            # A global pool and the broadcast back are a gate, not a change of resolution.
            if min(before, after) > 1:
                self._up |= bit * (after > CHANGED * before)
                self._down |= bit * (before > CHANGED * after)

    def of_branch(self, residual: Residual) -> Part:
        """``"attention"`` if two activations are multiplied in the branch, ``"mlp"`` if all its layers are linear."""
        way = residual.branch.ancestors & ~residual.origin.ancestors
        if way & self._attention:
            return "attention"
        return "mlp" if way & self._linear and not way & self._convolution else ""

    def in_decoder(self, node: Node | None) -> bool:
        """Whether the node lies behind an upsampling after which the resolution does not fall again.

        Call it after the forward pass.
        """
        ups_after_the_last_down = self._up >> self._down.bit_length() << self._down.bit_length()
        return node is not None and bool(self._down) and bool(node.ancestors & ups_after_the_last_down)
