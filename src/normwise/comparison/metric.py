"""The metric of a comparison: one number for each run, its direction, and how it is printed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..errors import InputError

DIRECTIONS = ("max", "min")
# The field of a row that holds the metric of a user's function.
OWN_FIELD = "value"
# Significant digits of a metric that is not a share (a percentage).
VALUE_DIGITS, DIFFERENCE_DIGITS = 4, 2


@dataclass(frozen=True)
class Metric:
    """A number of each run, kept in the rows' `field`. `share`: it goes from 0 to 1 and is shown in percent.

    A run whose field is None has failed, or its number was not finite. `chance` describes, for the metrics of our own
    loop, the answer of a model that has learned nothing; `title` is the metric's name in a heading.

    >>> rmse = own_metric("rmse", "min")
    >>> rmse.text(0.123456), rmse.difference(0.012345), rmse.score(2.0), ACCURACY.text(0.9712)
    ('0.1235', '0.012', -2.0, '97.1%')
    """

    name: str
    direction: str
    field: str
    share: bool = False
    title: str = ""
    chance: str = ""

    @property
    def own(self) -> bool:
        """Whether a user's function returned it."""
        return self.field == OWN_FIELD

    @property
    def spoken(self) -> str:
        """Its name in a sentence.

        >>> RMSE.spoken, ACCURACY.spoken
        ('RMSE', 'accuracy')
        """
        return self.title.removeprefix("Test ")

    @property
    def sign(self) -> int:
        return 1 if self.direction == "max" else -1

    def of(self, row: Mapping[str, Any]) -> float | None:
        """The number of a run."""
        return row[self.field]

    def score(self, value: float) -> float:
        """The number with the sign for which more is better."""
        return self.sign * value

    def text(self, value: float) -> str:
        """The number in a sentence."""
        return f"{value:.1%}" if self.share else f"{value:.{VALUE_DIGITS}g}"

    def difference(self, value: float) -> str:
        """The difference of two of them, without a unit."""
        return f"{100 * value:.1f}" if self.share else f"{value:.{DIFFERENCE_DIGITS}g}"

    @property
    def unit(self) -> str:
        """The unit after a difference in a sentence, with the space before it."""
        return " points" if self.share else ""


def _ready(name: str, direction: str, title: str, chance: str, share: bool = False) -> Metric:
    return Metric(name, direction, f"test_{name}", share, title, chance)


_FREQUENT = "always answering the most frequent class"
_MEAN = "always answering the mean of the training targets"
ACCURACY = _ready("accuracy", "max", "Test accuracy", _FREQUENT, share=True)
F1 = _ready("f1", "max", "Test F1", _FREQUENT, share=True)
DICE = _ready("dice", "max", "Test Dice", _FREQUENT, share=True)
IOU = _ready("iou", "max", "Test IoU", _FREQUENT, share=True)
RMSE = _ready("rmse", "min", "Test RMSE", _MEAN)
MAE = _ready("mae", "min", "Test MAE", _MEAN)
R2 = _ready("r2", "max", "Test R²", _MEAN)
PERPLEXITY = _ready("perplexity", "min", "Test perplexity", "always answering the frequencies of the tokens")
_READY = {metric.name: metric for metric in (ACCURACY, F1, DICE, IOU, RMSE, MAE, R2, PERPLEXITY)}


def own_metric(name: str | None, direction: str | None) -> Metric:
    """The metric of a user's own training, as `compare` and `--metric NAME:DIRECTION` have it.

    Raises InputError where the name or the direction is missing.
    """
    if not isinstance(name, str) or not name.strip():
        raise InputError(
            "train= needs metric=, the key in the returned dict by which runs are judged, such as metric='rmse' with "
            f"direction='min'; received metric={name!r}."
        )
    if direction not in DIRECTIONS:
        raise InputError(
            f"metric={name!r} needs a direction: 'max' where more is better, 'min' where less is; received "
            f"{direction!r}."
        )
    return Metric(name, direction, OWN_FIELD, title=name)


def metric_of(rows: Sequence[Mapping[str, Any]]) -> Metric:
    """The metric of a sweep's rows; accuracy if they name none."""
    named = rows[0].get("metric") if rows else None
    if named is None:
        return ACCURACY
    return own_metric(named, rows[0]["direction"]) if "train" in rows[0] else _READY[named]


def as_number(value: Any) -> float | None:
    """A float, finite or not, from a number, a NumPy scalar or a tensor of one element; None for anything else."""
    if isinstance(value, (bool, str)) or not hasattr(value, "__float__"):
        return None
    try:
        return float(value.detach() if isinstance(value, Tensor) else value)
    except (TypeError, ValueError, RuntimeError):
        return None


def as_finite(value: Any) -> float | None:
    """A finite float for JSON; None for anything else."""
    number = as_number(value)
    return number if number is not None and math.isfinite(number) else None
