"""The operations to measure, which both kernels and torch's operators can do, at the sizes that matter."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from normwise.core import formulas
from normwise.core.bound import bound
from normwise.core.formulas import Formula
from normwise.core.moments import Moments
from normwise.operations.request import PIXELS, PLANES, Request, View

CHANNELS, WIDTH = 32, 256
ROWS = View("rows", 1)
LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
#: Powers of two: numbers of values. On a GPU smaller ones take only host time.
SIZES = {"cpu": (10, 12, 14, 16, 18, 20, 22), "cuda": (12, 16, 20, 24)}


class Contest(NamedTuple):
    """An operation on a tensor of one layout, with the names that `operation_of` and `layout_of` give them."""

    operation: str
    layout: str
    view: View
    formula: Formula
    parameters: int

    def request(self, size: int, device: torch.device, dtype: torch.dtype, *, graph: bool) -> Request:
        """A request on about ``2**size`` random values, the same ones each time."""
        generator = torch.Generator().manual_seed(size)

        def random(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator).to(device, dtype)

        if self.view is ROWS:
            x, features = random(2**size // WIDTH, WIDTH), WIDTH
        else:
            side = 2 ** ((size - 6) // 2)
            x, features = random(2, CHANNELS, side, 2 ** (size - 6) // side), CHANNELS
        x = x.contiguous(memory_format=LAYOUTS[self.layout]).requires_grad_(graph)
        given = tuple(random(features).requires_grad_(graph) for _ in range(self.parameters))
        known = None
        if self.operation == "known statistics":
            known = Moments(torch.zeros(CHANNELS, device=device), torch.ones(CHANNELS, device=device), 1)
        # Without a bias if the formula has none.
        return Request(x, self.formula, (*given, None)[:2], known=known, view=self.view)


def contests(device: str) -> tuple[Contest, ...]:
    """All contests for the CPU, or for a GPU.

    On the CPU torch's operators lose digits where the mean is large. They take part only where that loss is within
    the rounding of the values themselves: the gradients of group_norm, and batch_norm for channels_last, are not.
    """
    return tuple(_contests(gpu=device != "cpu"))


def _contests(*, gpu: bool) -> Iterator[Contest]:
    """The contests; on the CPU without the operations in which torch loses digits."""
    eps = {"eps": 1e-5}
    normalized, square = bound(formulas.layer_norm, **eps), bound(formulas.rms_norm, **eps)
    for layout in LAYOUTS:
        if gpu or layout == "contiguous":
            yield Contest("batch", layout, PLANES, bound(formulas.batch_norm, **eps), 2)
        yield Contest("known statistics", layout, PLANES, bound(formulas.standardized, **eps), 2)
        yield Contest("instance", layout, PLANES, bound(formulas.instance_norm, **eps), 2)
        if gpu:
            yield Contest("groups", layout, PLANES, bound(formulas.group_norm, groups=8, **eps), 2)
            yield Contest("formula", layout, PLANES, square, 1)
    for view in (ROWS, PIXELS):
        yield Contest(view.over, "contiguous", view, normalized, 2)
        yield Contest(f"{view.over}, root mean square", "contiguous", view, square, 1)


#: Runs one step of a contest.
Step = Callable[[], object]
