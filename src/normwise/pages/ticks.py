"""Round numbers for logarithmic axes."""

from __future__ import annotations

import math

MOST_DECADES = 8
MOST_TICKS = 11
# Each is finer than the one before, but so little that its ticks are not crowded where the former has too few.
_STEPS = (
    *((1,), (1, 2, 5), (1, 2, 3, 4, 5, 7), (1, 1.5, 2, 2.5, 3, 4, 5, 6, 7, 8, 9)),
    tuple(n / 10 for n in range(10, 100)),
)


def log_ticks(low: float, high: float, least: int = 3) -> list[float]:
    """The decades from `low` to `high` if there are at least `least`, otherwise the coarsest finer steps.

    >>> log_ticks(0.02, 70.0), log_ticks(0.2, 7.0)
    ([0.1, 1.0, 10.0], [0.2, 0.5, 1.0, 2.0, 5.0])
    """
    decades = range(math.floor(math.log10(low)), math.floor(math.log10(high)) + 1)
    every = math.ceil(len(decades) / MOST_DECADES)
    ticks: list[float] = []
    for steps in _STEPS:
        ticks = [step * 10.0**decade for decade in decades[::every] for step in steps]
        ticks = [tick for tick in ticks if low <= tick <= high]
        if len(ticks) >= least:
            break
    return ticks[:: math.ceil(len(ticks) / MOST_TICKS)] if ticks else ticks
