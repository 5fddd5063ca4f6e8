"""Histograms with bins that widen automatically: exact counts over any number of batches in constant memory."""

from __future__ import annotations

import math
from collections import Counter

import torch
from torch import Tensor

from normwise.core.precision import in_fp64

from .records import Histogram

BINS = 64
# A bin is never narrower than this share of the largest value, so that the bins' numbers are exact integers.
NARROWEST = 2.0**-40


class Bins:
    """Counts by the number of the bin, ``floor(x / width)``; widths are powers of two, so bins merge in pairs."""

    def __init__(self, width: float, counts: Counter[int]) -> None:
        self._width = width
        self._counts = counts

    @classmethod
    def of(cls, x: Tensor) -> Bins:
        """Of the finite values."""
        with torch.no_grad():
            values = in_fp64(x.detach()).flatten()
            values = values[values.isfinite()]
            if values.numel() == 0:
                return cls(NARROWEST, Counter())
            low, high = values.min().item(), values.max().item()
            width = max((high - low) / BINS, NARROWEST * max(abs(low), abs(high)), math.ldexp(1.0, -1000))
            width = math.ldexp(1.0, math.ceil(math.log2(width)))
            first = math.floor(low / width)
            counts = torch.bincount((values / width).floor().long() - first).tolist()
        return cls(width, Counter({first + i: count for i, count in enumerate(counts) if count}))._fitted()

    def merge(self, other: Bins) -> Bins:
        """The counts of both."""
        width = max(self._width, other._width)
        return Bins(width, self._widened(width)._counts + other._widened(width)._counts)._fitted()

    def histogram(self) -> Histogram:
        if not self._counts:
            return Histogram(0.0, self._width, ())
        first, last = min(self._counts), max(self._counts)
        return Histogram(first * self._width, self._width, tuple(self._counts[i] for i in range(first, last + 1)))

    def _fitted(self) -> Bins:
        bins = self
        while bins._counts and max(bins._counts) - min(bins._counts) >= BINS:
            bins = bins._widened(2 * bins._width)
        return bins

    def _widened(self, width: float) -> Bins:
        factor = int(width / self._width)
        if factor == 1:
            return self
        merged: Counter[int] = Counter()
        for i, count in self._counts.items():
            merged[i // factor] += count
        return Bins(width, merged)
