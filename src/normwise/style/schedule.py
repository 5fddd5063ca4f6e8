"""The schedule of a training: a part with a loss on pixels, a part with a loss on features, and their learning
rates."""

from __future__ import annotations

import math

import torch
from torch import nn

from ..layers import ConditionalInstanceNorm2d

#: The share of the steps in which a net learns shapes and palette from pixels alone, which is cheap. Without this part,
#: in trials from random weights, the style loss fell first and the content loss not at all for hundreds of steps.
BY_PIXELS = 0.15
WARMUP = 20
#: Adam's steps have the size of the learning rate, which is large relative to a convolution's weights and small
# relative to γ = 1. So the tables by which the styles of one net differ have this many times the rate.
TABLES = 10.0
#: Adam's betas. The losses of crops differ much, so squared gradients are averaged over a hundred steps, not a
# thousand.
BETAS = (0.9, 0.99)


def steps_by_pixels(steps: int) -> int:
    """The number of steps of the first part, by pixels."""
    return math.ceil(BY_PIXELS * steps)


def begins_a_part(step: int, steps: int) -> bool:
    """Whether the optimizer's state is reset: the gradients of the features are much larger than those of the pixels,
    so with the old averages of squares the first hundred steps would be several times too long."""
    return step in (0, steps_by_pixels(steps))


def share_of_rate(step: int, steps: int) -> float:
    """The factor of the learning rate: a short warm-up in each part, and a cosine to a twentieth over both."""
    begin = steps_by_pixels(steps)
    done = step - begin if step >= begin else step
    return min(1.0, (done + 1) / WARMUP) * (0.525 + 0.475 * math.cos(math.pi * step / steps))


def optimizer_for(net: nn.Module, learning_rate: float) -> torch.optim.Adam:
    """Adam for the trained parameters of the net, in its initial state."""
    tables = [
        parameter
        for layer in net.modules()
        if isinstance(layer, ConditionalInstanceNorm2d)
        for parameter in layer.parameters()
    ]
    conditional = {id(parameter) for parameter in tables}
    rest = [p for p in net.parameters() if p.requires_grad and id(p) not in conditional]
    groups = [{"params": rest, "times": 1.0}, *([{"params": tables, "times": TABLES}] if tables else [])]
    return torch.optim.Adam(groups, lr=learning_rate, betas=BETAS)
