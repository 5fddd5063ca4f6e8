"""A copy of a model that a tool may change."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from .folding.runs import first_line


def copy_of(model: nn.Module, caller: str) -> nn.Module:
    """A deep copy; ValueError with the cause if the model cannot be copied."""
    attributes = [value for module in model.modules() for value in vars(module).values()]
    # torch does not copy tensors with a gradient graph, such as the weight computed by the hook of weight norm.
    memo: dict[int, Any] = {
        id(t): t.detach().clone() for t in attributes if isinstance(t, torch.Tensor) and not t.is_leaf
    }
    try:
        return copy.deepcopy(model, memo)
    except Exception as error:  # a module's copy may raise anything
        raise ValueError(
            f"{caller}: {type(model).__name__} cannot be copied ({first_line(error)}); write inplace=True."
        ) from error
