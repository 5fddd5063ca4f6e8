"""A sweep that continues only with contestants that may still win.

After each seed there is an interim verdict (a look). A contestant that is clearly behind at a batch size is not run
there any more. Repeated looks at growing data find a difference by chance sooner or later; to keep the error rate of
the whole sweep, it is divided evenly among the looks (Bonferroni).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import NamedTuple

from ..metric import metric_of
from .cells import Row, cells_of
from .chance import LEVEL
from .judging import verdicts_of
from .verdict import Verdict

# With one seed there is no spread to judge by.
FIRST_LOOK = 2

Place = tuple[str, int]


class Stops(NamedTuple):
    """After how many seeds each (norm, batch size) was stopped, and the verdicts on batch sizes that are decided."""

    places: dict[Place, int]
    decided: dict[int, Verdict]

    def holds(self, norm: str, batch_size: int) -> bool:
        """Whether a contestant needs no more runs at a batch size."""
        return (norm, batch_size) in self.places or batch_size in self.decided


def looks_of(seeds: int) -> int:
    """The number of looks: one after each seed from the second on."""
    return max(1, seeds - FIRST_LOOK + 1)


def level_of(looks: int) -> float:
    """The confidence level of one of so many looks.

    >>> level_of(1), round(level_of(5), 3)
    (0.95, 0.99)
    """
    return 1 - (1 - LEVEL) / max(1, looks)


def stops_among(rows: Sequence[Row], places: Iterable[Place], looks: int) -> Stops:
    """The contestants and batch sizes that the looks so far have stopped; `places` are all (norm, batch size).

    A look takes place when every remaining contestant has been run with one more seed.
    """
    stops, places = Stops({}, {}), list(places)
    seeds = list(dict.fromkeys(row["seed"] for row in rows))
    done = {(row["norm"], row["batch_size"], row["seed"]) for row in rows}
    for count in range(1, len(seeds) + 1):
        going_on = [place for place in places if not stops.holds(*place)]
        if any((*place, seeds[count - 1]) not in done for place in going_on):
            break
        if count >= FIRST_LOOK:
            _look(_runs_of(rows, stops, seeds[:count]), stops, count, looks)
    return stops


def judged_with_stops(rows: Sequence[Row], looks: int) -> tuple[tuple[Verdict, ...], Stops]:
    """The verdicts of a sweep with stops: a stopped contestant stays behind without more runs."""
    stops = stops_among(rows, dict.fromkeys((row["norm"], row["batch_size"]) for row in rows), looks)
    seeds = list(dict.fromkeys(row["seed"] for row in rows))
    remaining = _runs_of(rows, stops, seeds)
    open_ = verdicts_of(remaining, cells_of(remaining), level_of(looks)) if remaining else ()
    verdicts = sorted((*stops.decided.values(), *open_), key=lambda verdict: verdict.batch_size)
    return tuple(_with_stopped(verdict, rows, stops) for verdict in verdicts), stops


def _look(rows: list[Row], stops: Stops, count: int, looks: int) -> None:
    """Judge the runs of the remaining contestants, and stop those that are behind."""
    if not rows:
        return
    for verdict in verdicts_of(rows, cells_of(rows), level_of(looks)):
        stops.places.update({(norm, verdict.batch_size): count for norm in verdict.behind})
        if verdict.clear:
            stops.decided[verdict.batch_size] = verdict


def _runs_of(rows: Sequence[Row], stops: Stops, seeds: Sequence[int]) -> list[Row]:
    return [row for row in rows if row["seed"] in seeds and not stops.holds(row["norm"], row["batch_size"])]


def _with_stopped(verdict: Verdict, rows: Sequence[Row], stops: Stops) -> Verdict:
    stopped = [norm for norm, size in stops.places if size == verdict.batch_size]
    metric = metric_of(rows)
    cells = {cell.norm: cell for cell in cells_of([row for row in rows if row["batch_size"] == verdict.batch_size])}
    behind = sorted({*verdict.behind, *stopped}, key=lambda norm: -metric.score(cells[norm].mean))
    return replace(
        verdict,
        behind=tuple(behind),
        clear=len(cells) > 1 and len(behind) == len(cells) - 1,
        means={**verdict.means, **{norm: cells[norm].mean for norm in stopped}},
    )
