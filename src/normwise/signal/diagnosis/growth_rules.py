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

# A sum of independent branches of one size grows by a factor of at most 3/2 from its second step on: what grows faster
# over several steps grows with itself.
FAST = 1.6
FAST_STEPS = 3
# What grows slower is told by the whole path. The logarithm of a sum that gains as much at every step bends: of 8 times
# the growth its second half has at most 0.38 of what the first has. That of a power is straight: both halves have the
# same. No sound net shrinks like that, but a slow loss of a little harms nobody.
GROWN, SHRUNK = 8.0, 100.0
STEPS = 5
STRAIGHT = 0.7


def growing_variance(evidence: Evidence) -> Iterator[Finding]:
    """The variance is multiplied from block to block, r^k after k blocks, where a sound net adds: 1, 2, 3, ..."""
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
    """The signal dies out layer by layer."""
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
    """Stretches that grow (direction 1) or shrink (-1) with themselves: fast for some steps, or slowly all the way."""
    fast = list(_fast(evidence.path(), direction))
    return fast or [run for run in _free_stretches(evidence) if _is_geometric(run, direction)]


def _fast(taps: Sequence[Tap], direction: float) -> Iterator[list[Tap]]:
    pairs = [(a, b) for a, b in pairwise(taps) if a.variance > 0 and math.isfinite(b.variance)]
    for grows, group in groupby(pairs, key=lambda pair: direction * _log_ratio(*pair) >= math.log(FAST)):
        stretch = list(group)
        if grows and len(stretch) >= FAST_STEPS:
            yield [stretch[0][0], *(b for _, b in stretch)]


def _free_stretches(evidence: Evidence) -> Iterator[list[Tap]]:
    """The parts of the path without normalizers, inside of which the signal is left to itself."""
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
    # The typical step must be such a step, and not one jump be spread over all of them.
    enough = math.log(GROWN if direction > 0 else SHRUNK)
    return total >= enough and second >= STRAIGHT * first and median(steps) * len(steps) >= total / 2


def _log_ratio(a: Tap, b: Tap) -> float:
    return math.log(b.variance / a.variance) if b.variance > 0 else -math.inf


def _factor(run: Sequence[Tap]) -> float:
    return (run[-1].variance / run[0].variance) ** (1 / (len(run) - 1)) if run[-1].variance > 0 else 0.0
