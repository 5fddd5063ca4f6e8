"""Statistics of the training targets that a task needs: class frequencies, or mean and standard deviation."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

#: The target of a pixel or token that does not count.
IGNORED = -100


class TargetStatistics(NamedTuple):
    """`counts`: int64 `[K]` of class numbers; `mean` and `std` (biased): float64 `[T]` of numbers, else empty."""

    counts: Tensor
    mean: Tensor
    std: Tensor


def statistics_of(targets: Iterable[Tensor], classes: int = 0) -> TargetStatistics:
    """The statistics of targets given in batches, without those that are `IGNORED`; at least `classes` classes.

    >>> statistics_of([torch.tensor([0, 2]), torch.tensor([2, IGNORED])], 3).counts
    tensor([1, 0, 2])
    """
    counts = torch.zeros(classes, dtype=torch.long)
    mean = torch.zeros(0, dtype=torch.float64)
    spread, seen = mean, 0
    for y in targets:
        if not y.is_floating_point():
            found = y[y != IGNORED].flatten().bincount(minlength=len(counts)).cpu()
            counts = found + F.pad(counts, (0, len(found) - len(counts)))
            continue
        y = y.double().cpu()
        if not seen:
            mean = spread = torch.zeros(y.shape[1], dtype=torch.float64)
        variance, center = torch.var_mean(y, 0, correction=0)
        total, apart = seen + len(y), center - mean
        # Chan's update: no difference of large sums.
        spread = spread + variance * len(y) + apart.square() * (seen * len(y) / total)
        mean, seen = mean + apart * (len(y) / total), total
    return TargetStatistics(counts, mean, (spread / max(seen, 1)).sqrt())
