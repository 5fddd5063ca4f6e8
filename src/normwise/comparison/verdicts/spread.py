"""Runs compared seed by seed, and the spread of their differences.

Runs of one seed share their initial weights and the order of their data. A common effect of the seed on all contestants
cancels in the difference of two of them, so the relevant spread is that of the differences, not that of the runs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from .chance import LEVEL, range_quantile

# A larger number of additional seeds is not reported.
MOST_SEEDS = 50
# Of float64, over a table.
ROUNDING = 1e-13


@dataclass(frozen=True)
class Block:
    """The values at one batch size: `values[i, s]` is that of contestant `norms[i]` with the s-th seed.

    It holds only seeds that every contestant has, so that all of them can be compared seed by seed.
    """

    batch_size: int
    norms: tuple[str, ...]
    values: np.ndarray

    @property
    def seeds(self) -> int:
        return self.values.shape[1]

    @property
    def freedom(self) -> int:
        return max(0, len(self.norms) - 1) * max(0, self.seeds - 1)

    def mean(self, norm: str) -> float:
        return float(self.values[self.norms.index(norm)].mean())

    def only(self, norms: Sequence[str]) -> Block:
        """The same seeds of some of the contestants."""
        return Block(self.batch_size, tuple(norms), self.values[[self.norms.index(norm) for norm in norms]])


def block_of(batch_size: int, measured: Mapping[str, Mapping[int, float]]) -> Block:
    """The block of `{norm: {seed: value}}`."""
    common = sorted(set.intersection(*(set(by_seed) for by_seed in measured.values()))) if measured else []
    values = np.array([[by_seed[seed] for seed in common] for by_seed in measured.values()], dtype=np.float64)
    return Block(batch_size, tuple(measured), values.reshape(len(measured), len(common)))


def mean_square(blocks: Sequence[Block]) -> float:
    """The variance σ² of one run once the seed's common effect is taken out, pooled over the blocks.

    Of x[i, s] = μ[i] + u[s] + e[i, s] with variance σ² of e: the residuals of the two-way table, squared, over their
    (k - 1)(S - 1) degrees of freedom. It is half the mean, over all pairs, of the variance of the pair's differences.

    >>> differences = np.array([0.01, 0.03, 0.02])
    >>> block = Block(8, ("a", "b"), np.array([differences + 0.9, [0.9, 0.9, 0.9]]))
    >>> bool(np.isclose(mean_square([block]), differences.var(ddof=1) / 2))
    True
    """
    freedom = sum(block.freedom for block in blocks)
    total = 0.0
    for values in (block.values for block in blocks if block.freedom):
        residual = values - values.mean(1, keepdims=True) - values.mean(0, keepdims=True) + values.mean()
        # Differences that are equal up to rounding have no spread.
        residual[abs(residual) <= ROUNDING * abs(values).max()] = 0.0
        total += float((residual**2).sum())
    return total / freedom if freedom else 0.0


class Chance:
    """The bound for the difference of two means in a table of contestants and batch sizes.

    If all expectations are equal, then with probability `level` no two contestants differ by more than `needed` at any
    batch size: Tukey's range test (see `chance.range_quantile`) over all batch sizes at once.

    The test takes one σ for the whole table. Real contestants and batch sizes scatter differently, so the spread of a
    pair is the largest of three estimates: over the whole table, over its batch size, and over that pair at all
    batch sizes. If all scatter alike, the bound is stricter than 95 %; for tables whose spreads differ,
    tests/comparison/verdicts/test_false_winners.py counts the wrong verdicts.
    """

    def __init__(self, blocks: Sequence[Block], level: float = LEVEL) -> None:
        self.level = level
        self.blocks = [block for block in blocks if block.freedom]
        self.table = mean_square(self.blocks)

    def needed(self, block: Block, a: str, b: str) -> float | None:
        """The bound for the means of a and b over the seeds of `block`; None if there is no spread to judge by."""
        if not block.freedom:
            return None
        return self._needed(math.sqrt(self.variance(block, a, b)), block.seeds, more=0)

    def variance(self, block: Block, a: str, b: str) -> float:
        """The largest of the three estimates of σ²."""
        pairs = [other.only((a, b)) for other in self.blocks if {a, b} <= set(other.norms)]
        return max(self.table, mean_square([block]), mean_square(pairs))

    def seeds_to_settle(self, block: Block, a: str, b: str, lead: float) -> int | None:
        """The number of additional seeds that would make an unchanged lead clear; None for more than `MOST_SEEDS`."""
        spread = math.sqrt(self.variance(block, a, b))
        counts = range(1, MOST_SEEDS + 1)
        return next((more for more in counts if self._needed(spread, block.seeds + more, more) < lead), None)

    def _needed(self, spread: float, seeds: int, more: int) -> float:
        sizes = tuple(len(block.norms) for block in self.blocks)
        freedom = sum((len(block.norms) - 1) * (block.seeds + more - 1) for block in self.blocks)
        return range_quantile(sizes, freedom, self.level) * spread / math.sqrt(seeds)
