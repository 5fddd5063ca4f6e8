"""A layer that changes gradually from one normalizer to another."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class Transition(nn.Module):
    r"""The weighted sum of an old layer in evaluation and a new layer.

    .. math:: y = (1 - t)\,\text{before}(x) + t\,\text{after}(x)

    At ``t = 0`` this is the old layer with its running statistics, also in training, and they are not updated; at
    ``t = 1`` it is the new layer. In between both run. The old layer's parameters get no gradient.

    >>> layer, x = Transition(nn.BatchNorm2d(2), nn.GroupNorm(1, 2)), torch.randn(3, 2, 4, 4)
    >>> torch.equal(layer(x), nn.BatchNorm2d(2).eval()(x))
    True
    """

    t: float = 0.0

    def __init__(self, before: nn.Module, after: nn.Module) -> None:
        super().__init__()
        mode, self.before, self.after = before.training, before, after
        self.train(mode)

    def forward(self, x: Tensor, *arguments: Any, **named: Any) -> Tensor:
        if self.t == 0:
            return self.before(x, *arguments, **named)
        new = self.after(x, *arguments, **named)
        if self.t == 1:
            return new
        return torch.lerp(self.before(x, *arguments, **named), new, self.t)

    def train(self, mode: bool = True) -> Transition:
        super().train(mode)
        self.before.training = False  # its submodules, such as dropout, keep the mode of the model
        return self

    def extra_repr(self) -> str:
        return f"t={self.t:g}"


def check_closed(model: nn.Module, caller: str) -> None:
    """Raises ValueError for a model in the middle of a swap, which no tool accepts."""
    for name, module in model.named_modules():
        if isinstance(module, Transition):
            raise ValueError(
                f"{caller}: {name or 'the model'} is in the middle of a swap; call its finish() or undo()."
            )
