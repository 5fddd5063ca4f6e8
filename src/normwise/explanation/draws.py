"""Random values at which a layer is called: each draw makes many of them equal, and any two are equal in some draw."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

#: Draws of a block; two values differ from the common one in at most half of these each, so in one draw neither does.
IN_A_BLOCK = 5


class Draw(NamedTuple):
    """``x`` in fp64; ``equal`` marks the values that are one number, the largest (``sign`` 1) or the smallest (-1)."""

    x: Tensor
    equal: Tensor
    sign: float
    #: The step of one value by which a change is tested.
    step: float


class Draws:
    """Values of a shape. Mean and spread are those of the finite values of ``like``, which is not used otherwise."""

    def __init__(self, like: Tensor | None, shape: tuple[int, ...], device: torch.device) -> None:
        self.shape = shape
        self.device = device
        self._mean, self._spread = _scale(like)
        self._generator = torch.Generator().manual_seed(0)
        self.size = torch.Size(shape).numel()

    def blocks(self) -> list[Draw]:
        """A block of each sign: if an activation hides negative values, the first block shows the layer behind it."""
        every = []
        for sign in (1.0, -1.0):
            moved = torch.rand(self.size, IN_A_BLOCK, generator=self._generator) < 0.5
            moved = torch.where((moved.sum(1) > IN_A_BLOCK // 2).unsqueeze(1), ~moved, moved)
            every += [self._draw(column, sign) for column in moved.unbind(1)]
        return every

    def another(self, sign: float) -> Draw:
        return self._draw(torch.rand(self.size, generator=self._generator) < 0.4, sign)

    def _draw(self, moved: Tensor, sign: float) -> Draw:
        away = torch.rand(self.size, generator=self._generator, dtype=torch.float64) * 2.5 + 0.3
        x = self._mean + sign * self._spread * (1.1 - torch.where(moved, away, 0.0))
        return Draw(x.reshape(self.shape).to(self.device), ~moved, sign, sign * 3 * self._spread)


def _scale(like: Tensor | None) -> tuple[float, float]:
    if like is None:
        return 0.5, 1.5
    values = like.detach().double()
    values = values[values.isfinite()]
    mean, spread = (float(values.mean()), float(values.std(correction=0))) if len(values) else (0.5, 1.5)
    return mean, spread if spread > 1e-6 * max(1.0, abs(mean)) else max(1.0, abs(mean))
