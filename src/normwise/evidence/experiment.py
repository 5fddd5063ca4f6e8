"""Experiments: a claim, a protocol, and the rule for the verdict."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from ..comparison import TrainingRun

if TYPE_CHECKING:
    from PIL.Image import Image

Row = dict[str, Any]

HOLDS = "holds"
DOES_NOT_HOLD = "does not hold here"
HOLDS_WHEN = "holds when"
UNDECIDED = "undecided at this size"
OUTCOMES = (HOLDS, DOES_NOT_HOLD, HOLDS_WHEN, UNDECIDED)


class Verdict(NamedTuple):
    """One of `OUTCOMES`, and a sentence with the numbers."""

    outcome: str
    sentence: str


class Results:
    """The rows of an experiment, accessed by case and size."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows = [row for row in rows if row["status"] == "finished"]

    def cases(self) -> list[str]:
        return list(dict.fromkeys(row["norm"] for row in self.rows))

    def sizes(self) -> list[int]:
        return sorted({row["batch_size"] for row in self.rows})

    def values(self, case: str, size: int | None = None, name: str | None = None) -> list[float]:
        """The metric of the runs of a case, by seed; `name` selects another one than the experiment's own, and runs
        without it are left out."""
        chosen = [row for row in self.rows if row["norm"] == case and size in (None, row["batch_size"])]
        found = [row["value"] if name is None else row["metrics"].get(name) for row in chosen]
        return [value for value in found if value is not None]

    def mean(self, case: str, size: int | None = None, name: str | None = None) -> float:
        """The mean over the seeds; NaN without any run."""
        values = self.values(case, size, name)
        return statistics.fmean(values) if values else math.nan

    def spread(self, case: str, size: int | None = None, name: str | None = None) -> float:
        """The standard deviation over the seeds, 0 for fewer than two."""
        values = self.values(case, size, name)
        return statistics.stdev(values) if len(values) > 1 else 0.0

    def shown(
        self, case: str, size: int | None = None, name: str | None = None, *, scale: float = 1.0
    ) -> tuple[float, float]:
        """Mean and spread times `scale`, for a bar; `scale=100` converts a share to per cent."""
        return scale * self.mean(case, size, name), scale * self.spread(case, size, name)

    def over_sizes(self, case: str, *, scale: float = 1.0) -> list[tuple[float, float, float]]:
        """Batch size, mean and spread, for a line."""
        return [(size, *self.shown(case, size, scale=scale)) for size in self.sizes()]

    def interval(self, case: str, other: str, size: int | None = None, name: str | None = None) -> tuple[float, float]:
        """The 95 % interval of the difference of two cases, seed by seed (Student's t); infinite for fewer than two."""
        pairs = zip(self.values(case, size, name), self.values(other, size, name), strict=False)
        differences = [a - b for a, b in pairs]
        if len(differences) < 2:
            return -math.inf, math.inf
        half = student(len(differences) - 1) * statistics.stdev(differences) / math.sqrt(len(differences))
        middle = statistics.fmean(differences)
        return middle - half, middle + half


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """A claim of the articles and its experiment.

    Attributes:
        number: "E2" and so on.
        claim, claim_ja: the claim in English and Japanese.
        said_in: the articles with this claim, by their number in the source list.
        protocol: the procedure, in sentences.
        rule: the rule for the verdict, written before the runs; `judge` implements it.
        cases: the compared cases; a run's `name` is one of them.
        measure: does one run, given its case, batch size and seed; returns the metric and other numbers.
        metric, direction: the main number, and whether more or less is better.
        judge: a function from results to the verdict.
        picture: a function from results to an SVG that shows the claim.
        exhibit: for nets that make pictures, a function from the number of epochs to a sheet of the first seed's.
        sizes: the batch sizes, if they matter.
        seeds, epochs: those of the full experiment; `quick_seeds` and `quick_epochs` those of the reduced one.
    """

    number: str
    claim: str
    claim_ja: str
    said_in: tuple[str, ...]
    protocol: str
    rule: str
    cases: tuple[str, ...]
    measure: Callable[[TrainingRun], Mapping[str, float]]
    judge: Callable[[Results], Verdict]
    picture: Callable[[Results], str]
    metric: str = "accuracy"
    direction: str = "max"
    exhibit: Callable[[int], Image] | None = None
    sizes: tuple[int, ...] = (1,)
    seeds: int = 5
    epochs: int = 1
    quick_seeds: int = 3
    quick_epochs: int = 1


# Student's t at 97.5 % for 1, 2, ... degrees of freedom.
_STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131)


def student(freedom: int) -> float:
    """The factor of a 95 % interval of a mean; above 15 degrees of freedom the value at 15, which is wider.

    >>> student(1), student(4), student(100)
    (12.706, 2.776, 2.131)
    """
    return _STUDENT[min(freedom, len(_STUDENT)) - 1]


def more_than_half(total: int) -> int:
    """The least count that shows, by a sign test at 95 %, that more than half of all cases succeed: of `total` fair
    coins so many or more show heads with a probability of at most 5 %. `total + 1` if `total` is less than 5.

    >>> more_than_half(12), more_than_half(20), more_than_half(4)
    (10, 15, 5)
    """
    tail, least = 0, total + 1
    while tail + math.comb(total, least - 1) <= 0.05 * 2**total:
        least -= 1
        tail += math.comb(total, least)
    return least
