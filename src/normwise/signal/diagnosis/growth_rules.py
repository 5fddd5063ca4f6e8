"""Rules about variance over depth."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import groupby, pairwise
from statistics import median

from ..records import Tap
from .evidence import Evidence
from .findings import Finding
from .sites import NORMALIZER_CLASSES, normalizes

# A sum of independent branches of equal variance grows by a factor of at most 3/2 from its second step on: faster
# growth over several steps is exponential.
FAST = 1.6
FAST_STEPS = 3
# Slower exponential growth is recognized over the whole path. For a sum that gains the same at every step, the curve of
# the logarithm bends: for 8-fold growth the second half of the path has at most 0.38 of the logarithm's gain in the
# first. For a power it is straight: both halves gain the same. A sound net does not shrink exponentially, but a slow
# small loss does no harm.
GROWN, SHRUNK = 8.0, 100.0
STEPS = 5
STRAIGHT = 0.7


def growing_variance(evidence: Evidence) -> Iterator[Finding]:
    """Exponential growth: the variance is r^k after k blocks, while in a sound net it adds up: 1, 2, 3, ..."""
    for run in _runs(evidence, 1.0):
        factor, total = _factor(run), run[-1].variance / run[0].variance
        yield Finding(
            "error" if total > 1e3 else "warning",
            "growing variance",
            run[-1].name,
            f"From {run[0].name} on the variance grows by a factor of {factor:.3g} at each of {len(run) - 1} steps, "
            f"from {run[0].variance:.3g} to {run[-1].variance:.3g}.",
            "Put a normalizer at the start of each residual branch; or scale the branches down (SkipInit, or "
            "x + alpha * f(beta * x) with ScaledWSConv2d, as nw.nets.nf_resnet has it); in a plain net, initialize "
            "with the activation's gain.",
            factor,
        )


def vanishing_variance(evidence: Evidence) -> Iterator[Finding]:
    """The variance shrinks exponentially from layer to layer."""
    for run in _runs(evidence, -1.0):
        factor = _factor(run)
        yield Finding(
            "error" if run[-1].variance < 1e-3 * run[0].variance else "warning",
            "vanishing variance",
            run[-1].name,
            f"From {run[0].name} on the variance shrinks by a factor of {factor:.2g} at each of {len(run) - 1} steps, "
            f"from {run[0].variance:.3g} to {run[-1].variance:.3g}.",
            "Initialize the weights with the activation's gain (nn.init.kaiming_normal_ for ReLU; torch's default is "
            "too small by a factor of 6 in variance), or put normalizers in between.",
            factor,
        )


def _runs(evidence: Evidence, direction: float) -> list[list[Tap]]:
    """Stretches with exponential growth (direction 1) or decay (-1): fast over some steps, or slow over the whole
    path."""
    fast = list(_fast(evidence.path(), direction))
    return fast or [run for run in _free_stretches(evidence) if _is_geometric(run, direction)]


def _fast(taps: Sequence[Tap], direction: float) -> Iterator[list[Tap]]:
    pairs = [(a, b) for a, b in pairwise(taps) if a.variance > 0 and math.isfinite(b.variance)]
    for grows, group in groupby(pairs, key=lambda pair: direction * _log_ratio(*pair) >= math.log(FAST)):
        stretch = list(group)
        if grows and len(stretch) >= FAST_STEPS:
            yield [stretch[0][0], *(b for _, b in stretch)]


def _free_stretches(evidence: Evidence) -> Iterator[list[Tap]]:
    """The parts of the path between normalizers, where nothing controls the signal."""
    path = {(tap.kind, tap.name) for tap in evidence.path()}
    run: list[Tap] = []
    for tap in evidence.taps:
        module = evidence.module_of(tap)
        on_path = (tap.kind, tap.name) in path
        measurable = on_path and 0 < tap.variance < math.inf
        if (on_path and (normalizes(module) or not measurable)) or isinstance(module, NORMALIZER_CLASSES):
            yield run
            run = []
        elif measurable:
            run.append(tap)
    yield run


def _is_geometric(run: Sequence[Tap], direction: float) -> bool:
    if len(run) <= STEPS:
        return False
    steps = [direction * _log_ratio(a, b) for a, b in pairwise(run)]
    total, half = sum(steps), len(steps) // 2
    first, second = sum(steps[:half]) / half, sum(steps[half:]) / (len(steps) - half)
    # The typical step must grow, too: a single jump does not count.
    enough = math.log(GROWN if direction > 0 else SHRUNK)
    return total >= enough and second >= STRAIGHT * first and median(steps) * len(steps) >= total / 2


def _log_ratio(a: Tap, b: Tap) -> float:
    return math.log(b.variance / a.variance) if b.variance > 0 else -math.inf


def _factor(run: Sequence[Tap]) -> float:
    return (run[-1].variance / run[0].variance) ** (1 / (len(run) - 1)) if run[-1].variance > 0 else 0.0
