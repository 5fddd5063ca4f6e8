"""Whether a forward pass is a recomputation by activation checkpointing, inside a backward pass."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .operators import LIBRARY, OPERATORS

# The answer belongs to a run, not to the graph: for a compiler it must be an operator that it cannot look into.
LIBRARY.define("recomputing(Tensor like) -> Tensor", tags=(torch.Tag.pt2_compliant_tag,))


def recomputing() -> bool:
    """Whether this forward pass runs inside a backward pass; False where a compiler traces, see `recomputing_in_graph`.

    >>> recomputing()
    False
    """
    return not torch.compiler.is_compiling() and _in_backward()


def recomputing_in_graph(like: Tensor) -> Tensor:
    """The same as a tensor on the device of ``like``, determined anew at each run of the graph."""
    return OPERATORS.recomputing(like)


def graphs_may_ask() -> bool:
    """Whether a graph is being made that may hold operators of this package; a graph for ONNX may not."""
    return torch.compiler.is_compiling() and not torch.onnx.is_in_onnx_export()


def _in_backward() -> bool:
    return torch._C._current_graph_task_id() != -1  # pyright: ignore[reportAttributeAccessIssue]


def _recomputing(like: Tensor) -> Tensor:
    return like.new_full((), _in_backward(), dtype=torch.bool)


def _fake(like: Tensor) -> Tensor:
    return like.new_empty((), dtype=torch.bool)


def _of_many(_info: Any, _in_dims: Any, like: Tensor) -> tuple[Tensor, None]:
    return recomputing_in_graph(like), None


LIBRARY.impl("recomputing", _recomputing, "CompositeExplicitAutograd")
torch.library.register_fake(f"{LIBRARY.ns}::recomputing", _fake, lib=LIBRARY)
torch.library.register_vmap(f"{LIBRARY.ns}::recomputing", _of_many, lib=LIBRARY)
