"""A number that grows during training: piecewise linear in the step, never falling."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from torch import Tensor

from .precision import table_dtype

#: A constant, or points ``(step, value)`` joined by lines; constant before the first point and after the last.
Schedule = float | tuple[tuple[float, float], ...]


def as_schedule(value: float | Sequence[tuple[float, float]], name: str, lowest: float) -> Schedule:
    """``value`` as a schedule. A constant may be infinite.

    Raises ValueError for a value below ``lowest``, steps that do not grow or values that fall.

    >>> as_schedule([(0, 1), (100, 3)], "r_max", 1.0)
    ((0.0, 1.0), (100.0, 3.0))
    """
    if isinstance(value, (int, float)):
        if not value >= lowest:
            raise ValueError(f"{name} must be at least {lowest:g}, received {value!r}.")
        return float(value)
    points = _points(value, name)
    for (step, low), (next_step, high) in pairwise(points):
        if next_step <= step or high < low:
            raise ValueError(
                f"{name}: a schedule must not go backwards, but ({step:g}, {low:g}) is followed by "
                f"({next_step:g}, {high:g}); give points with growing steps and values that do not fall."
            )
    if not all(math.isfinite(number) for point in points for number in point) or points[0][1] < lowest:
        raise ValueError(f"{name}: every point must be finite and every value at least {lowest:g}, received {value!r}.")
    return points


def _points(value: Any, name: str) -> tuple[tuple[float, float], ...]:
    """The points of a schedule as floats; ValueError for anything else."""
    try:
        points = tuple((float(step), float(number)) for step, number in value)
    except (TypeError, ValueError):
        points = ()
    if not points:
        raise ValueError(
            f"{name} must be a number or points (step, value) such as ((0, 1.0), (1000, 3.0)), received {value!r}."
        )
    return points


def value_at(schedule: Schedule, step: Tensor) -> Tensor | float:
    """The schedule's value at ``step``, on the device of ``step`` and without waiting for it.

    >>> import torch
    >>> [float(value_at(((10, 1.0), (20, 3.0)), torch.tensor(s))) for s in (0, 10, 15, 20, 99)]
    [1.0, 1.0, 2.0, 3.0, 3.0]
    """
    if isinstance(schedule, (int, float)):
        return float(schedule)
    now = step.to(table_dtype(step))
    value = now * 0 + schedule[0][1]
    for (start, low), (end, high) in pairwise(schedule):
        value = value + (now.clamp(start, end) - start) / (end - start) * (high - low)
    return value
