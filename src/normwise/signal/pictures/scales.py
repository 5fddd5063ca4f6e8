"""Scales from numbers to pixels, and the ticks of the axes."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from ...pages.ticks import log_ticks

LOG_FROM = 30.0


@dataclass(frozen=True)
class Scale:
    """Maps numbers from `low` to `high` to pixels from `start` to `end`; values outside are drawn at the edge."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        value = min(max(value, self.low), self.high)
        low, high, value = (math.log10(v) if self.log else v for v in (self.low, self.high, value))
        return self.start + (self.end - self.start) * (value - low) / (high - low)

    def shows(self, value: float) -> bool:
        return self.low <= value <= self.high

    def ticks(self) -> list[tuple[float, str]]:
        """Some round numbers, and their labels."""
        values = log_ticks(self.low, self.high) if self.log else _linear_ticks(self.low, self.high)
        return [(value, written(value)) for value in values]


def scale_for(values: Iterable[float], start: float, end: float, smallest: float = 0.0) -> Scale:
    """A linear scale from 0, or, if the values span more than a factor of 30, a logarithmic one from `smallest`."""
    finite = [v for v in values if math.isfinite(v) and v > 0]
    if not finite:
        return Scale(0.0, 1.0, start, end)
    high = max(finite)
    low = min(max(min(finite), smallest), high)
    if high / low < LOG_FROM:
        return Scale(0.0, 1.08 * high, start, end)
    return Scale(low / 1.25, high * 1.25, start, end, log=True)


def count_scale(count: int, start: float, end: float) -> Scale:
    """A scale for the places 1 to `count`."""
    return Scale(0.5, max(count, 2) + 0.5, start, end)


def written(value: float) -> str:
    """The shortest readable form of a number.

    >>> [written(v) for v in (0, 0.05, 1.0, 30, 2000, 5e6, 1e-5)]
    ['0', '0.05', '1', '30', '2000', '5e6', '1e-5']
    """
    if value == 0 or 1e-3 <= abs(value) < 1e5:
        return f"{value:.6g}"
    mantissa, exponent = f"{value:.0e}".split("e")
    return f"{mantissa}e{int(exponent)}"


def _linear_ticks(low: float, high: float) -> list[float]:
    rough = (high - low) / 4
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(s * power for s in (1, 2, 5, 10) if s * power >= rough)
    first = math.ceil(low / step)
    return [i * step for i in range(first, math.floor(high / step + 1e-9) + 1)]
