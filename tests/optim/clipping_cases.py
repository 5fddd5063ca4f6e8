"""What the tests of the clipping share."""

import torch
from torch import nn


def fill(model):
    """Gradients of which some units are larger than the clipped norm and some are not."""
    for parameter in model.parameters():
        units = parameter.shape[:1]
        spread = torch.logspace(-5, 1, units.numel()).reshape(*units, *[1] * (parameter.dim() - 1))
        parameter.grad = torch.randn_like(parameter) * spread.to(parameter.dtype)
    return {name: p.grad.clone() for name, p in model.named_parameters()}


class Heads(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(4, 3)
        self.body = nn.Conv1d(2, 4, 3)
