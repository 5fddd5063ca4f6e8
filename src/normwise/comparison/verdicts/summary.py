"""The summary of a sweep: mean and spread, the leader at each batch size, a recommendation."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ..metric import Metric, metric_of
from .cells import Cell, Row, cells_of
from .evidence import evidence, stopped_early
from .judging import rule_of, verdicts_of
from .recommendation import headline
from .sequential import judged_with_stops
from .verdict import Verdict


@dataclass(frozen=True)
class Summary:
    """Cells in the order of the rows, a verdict per batch size, a recommendation and the evidence for it."""

    cells: tuple[Cell, ...]
    verdicts: tuple[Verdict, ...]
    headline: str
    evidence: tuple[str, ...]
    metric: Metric

    @property
    def rule(self) -> str:
        """The rule of the verdicts, in words."""
        return rule_of(self.metric)

    def cell(self, norm: str, batch_size: int) -> Cell | None:
        """The cell of a normalizer at a batch size, None if no run is finished."""
        return next((c for c in self.cells if (c.norm, c.batch_size) == (norm, batch_size)), None)


def summarize(rows: Sequence[Row], looks: int = 0) -> Summary:
    """The summary of the rows of one sweep, which may be incomplete.

    Args:
        rows: the result of `compare`, or rows read from its folder.
        looks: the number of interim verdicts that may stop runs, 0 if nothing is stopped (`settings["looks"]`).

    Raises ValueError if there is no row.
    """
    if not rows:
        raise ValueError("summarize needs at least one row; no run has finished yet.")
    cells = cells_of(rows)
    norms = list(dict.fromkeys(cell.norm for cell in cells))
    if looks:
        verdicts, stops = judged_with_stops(rows, looks)
        found = (*evidence(cells, verdicts), *stopped_early(cells, stops.places))
    else:
        verdicts = verdicts_of(rows, cells)
        found = evidence(cells, verdicts)
    return Summary(cells, verdicts, headline(rows, norms, verdicts), found, metric_of(rows))


def to_csv(rows: Iterable[Row]) -> str:
    """One line per run: every field of the rows that is a plain value; curves, layers and versions are left out."""
    table = [{k: v for k, v in row.items() if not isinstance(v, (list, dict))} for row in rows]
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(table[0]) if table else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(table)
    return text.getvalue()
