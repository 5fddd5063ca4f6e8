"""A step of an optimizer."""

from __future__ import annotations

import torch
from torch import Tensor


def take_step(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    """One step of the optimizer along the gradient of a loss."""
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
