"""Whether a forward pass is one that activation checkpointing runs again inside a backward pass."""

from __future__ import annotations

import torch
from torch import Tensor

from .operators import LIBRARY, OPERATORS

# The flag is a fact of the run, not of the graph: a compiler must find an operator that it cannot look into.
LIBRARY.define("recomputing(Tensor like) -> Tensor", tags=(torch.Tag.pt2_compliant_tag,))


def recomputing() -> bool:
    """Whether this forward pass runs inside a backward pass; False where a compiler traces, see `recomputing_in_graph`.

    >>> recomputing()
    False
    """
    return not torch.compiler.is_compiling() and _in_backward()


def recomputing_in_graph(like: Tensor) -> Tensor:
    """The same as a tensor on the device of ``like``, found anew whenever the graph runs."""
    return OPERATORS.recomputing(like)


def graphs_may_ask() -> bool:
    """Whether a graph is being made that can hold operators of this package: one for ONNX cannot."""
    return torch.compiler.is_compiling() and not torch.onnx.is_in_onnx_export()


def _in_backward() -> bool:
    return torch._C._current_graph_task_id() != -1  # pyright: ignore[reportAttributeAccessIssue]


def _recomputing(like: Tensor) -> Tensor:
    return like.new_full((), _in_backward(), dtype=torch.bool)


def _fake(like: Tensor) -> Tensor:
    return like.new_empty((), dtype=torch.bool)


LIBRARY.impl("recomputing", _recomputing, "CompositeExplicitAutograd")
torch.library.register_fake(f"{LIBRARY.ns}::recomputing", _fake, lib=LIBRARY)
