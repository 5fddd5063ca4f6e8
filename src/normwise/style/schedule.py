"""The two parts of a training, by pixels and by features, and how fast each is learnt."""

from __future__ import annotations

import math

import torch
from torch import nn

from ..layers import ConditionalInstanceNorm2d

#: The share of the steps in which a net learns shapes and palette by pixels alone, which cost little. Seen in trials:
#: from random weights the style's loss is learnt first, and the content for hundreds of steps not at all.
BY_PIXELS = 0.15
WARMUP = 20
#: Adam's steps are of the size of the learning rate: a twentieth of a convolution's weights, and a hundredth of that
#: of γ = 1. Of the tables by which the styles of one net differ they are this many times as long.
TABLES = 10.0
#: Losses of crops that differ much: squares of the gradients are remembered for a hundred steps, not for a thousand.
BETAS = (0.9, 0.99)


def steps_by_pixels(steps: int) -> int:
    """How many of the steps come before the features'."""
    return math.ceil(BY_PIXELS * steps)


def begins_a_part(step: int, steps: int) -> bool:
    """Whether the optimizer forgets what it knows: the features' gradients are many times those of the pixels, and
    with the latter's squares the first hundred steps would be several times too long."""
    return step in (0, steps_by_pixels(steps))


def share_of_rate(step: int, steps: int) -> float:
    """Of the learning rate: a short warm-up of each part, and a cosine to a twentieth over both."""
    begin = steps_by_pixels(steps)
    done = step - begin if step >= begin else step
    return min(1.0, (done + 1) / WARMUP) * (0.525 + 0.475 * math.cos(math.pi * step / steps))


def optimizer_for(net: nn.Module, learning_rate: float) -> torch.optim.Adam:
    """Adam for what of the net is trained, without a memory."""
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
