"""What the verdict is about: one number of each run, which way is better, and how it reads."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from .settings import InputError

DIRECTIONS = ("max", "min")
# Digits of a number that is no share of something.
VALUE_DIGITS, DIFFERENCE_DIGITS = 4, 2


@dataclass(frozen=True)
class Metric:
    """A number of each run, kept in the rows' `field`. `share`: it is a share of the held-out samples, from 0 to 1.

    A run without the number (its field is None) has failed, or its number was not finite.

    >>> rmse = Metric("rmse", "min", "value")
    >>> rmse.text(0.123456), rmse.difference(0.012345), rmse.score(2.0), ACCURACY.text(0.9712)
    ('0.1235', '0.012', -2.0, '97.1%')
    """

    name: str
    direction: str
    field: str
    share: bool = False

    @property
    def sign(self) -> int:
        return 1 if self.direction == "max" else -1

    def of(self, row: Mapping[str, Any]) -> float | None:
        """The number of a run."""
        return row[self.field]

    def score(self, value: float) -> float:
        """The number so that more is better."""
        return self.sign * value

    def text(self, value: float) -> str:
        """The number in a sentence."""
        return f"{value:.1%}" if self.share else f"{value:.{VALUE_DIGITS}g}"

    def difference(self, value: float) -> str:
        """The difference of two of them, without a unit."""
        return f"{100 * value:.1f}" if self.share else f"{value:.{DIFFERENCE_DIGITS}g}"

    @property
    def unit(self) -> str:
        """What follows a difference in a sentence, with the space before it."""
        return " points" if self.share else ""


ACCURACY = Metric("accuracy", "max", "test_accuracy", share=True)


def own_metric(name: str | None, direction: str | None) -> Metric:
    """The metric of a user's own training, as `compare` and `--metric NAME:DIRECTION` have it.

    Raises InputError where the name or the direction is missing.
    """
    if not isinstance(name, str) or not name.strip():
        raise InputError(
            "train= needs metric=, the key of what it returns that the verdict is about, such as metric='rmse' with "
            f"direction='min'; received metric={name!r}."
        )
    if direction not in DIRECTIONS:
        raise InputError(
            f"metric={name!r} needs a direction: 'max' where more is better, 'min' where less is; received "
            f"{direction!r}."
        )
    return Metric(name, direction, "value")


def metric_of(rows: Sequence[Mapping[str, Any]]) -> Metric:
    """The metric of a sweep's rows: accuracy, where they name no other."""
    named = rows[0].get("metric") if rows else None
    return ACCURACY if named is None else own_metric(named, rows[0]["direction"])


def as_number(value: Any) -> float | None:
    """A float, finite or not, of a number, a NumPy scalar or a tensor of one element; None of anything else."""
    if isinstance(value, (bool, str)) or not hasattr(value, "__float__"):
        return None
    try:
        return float(value.detach() if isinstance(value, Tensor) else value)
    except (TypeError, ValueError, RuntimeError):
        return None


def as_finite(value: Any) -> float | None:
    """A finite float for JSON, None of anything else."""
    number = as_number(value)
    return number if number is not None and math.isfinite(number) else None
