"""The tables of the terminal and the report: quantity, unit, digits, and the best value."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass, replace

from ..metric import Metric
from .cells import Cell
from .summary import Summary

EMPTY = "–"
DAGGER = "†"
DIVERGED = "diverged"
FAILED = "failed"
MOST_DECIMALS = 6


@dataclass(frozen=True)
class Quantity:
    """A figure of a `Cell` and how it is shown: `factor` converts it to `unit`, the best cell has the least `rank`.

    `row_field` is the field of a single run, if single runs are shown. `judged` marks the metric of the verdict.
    """

    field: str
    title: str
    unit: str
    factor: float
    rank: Callable[[float], float]
    signed: bool = False
    row_field: str | None = None
    judged: Metric | None = None


def judged_quantity(metric: Metric) -> Quantity:
    """The metric of a sweep."""
    unit, factor = ("%", 100) if metric.share else ("", 1)
    return Quantity(
        "mean", metric.title, unit, factor, lambda value: -metric.score(value), row_field=metric.field, judged=metric
    )


def titled(quantity: Quantity) -> str:
    """Name and unit: "Step time, ms"."""
    return f"{quantity.title}, {quantity.unit}" if quantity.unit else quantity.title


GAP = Quantity("gap", "Train-eval gap", "points", 100, abs, signed=True, row_field="train_eval_gap")
# For a metric that is not a share.
GAP_OF_VALUES = replace(GAP, unit="", factor=1)
GAPS = (GAP, GAP_OF_VALUES)
STEP_TIME = Quantity("step_ms", "Step time", "ms", 1, lambda value: value)
# Step times that were not measured in turns: none is marked as the best.
ONE_AFTER_ANOTHER = replace(STEP_TIME, rank=lambda _: 0.0)
MEMORY = Quantity("peak_memory_bytes", "Peak memory", "MB", 1e-6, lambda value: value)


class Table:
    """One quantity of a summary: `norms` are the rows and `batch_sizes` the columns."""

    def __init__(self, quantity: Quantity, summary: Summary) -> None:
        self.quantity, self.summary = quantity, summary
        self.norms = tuple(dict.fromkeys(cell.norm for cell in summary.cells))
        self.batch_sizes = tuple(sorted({cell.batch_size for cell in summary.cells}))
        self.decimals = self._decimals()

    def value(self, cell: Cell | None) -> float | None:
        """The cell's figure in the quantity's unit; a cell without a converged run has only the metric."""
        if cell is None or (cell.diverged == cell.n and self.quantity.judged is None):
            return None
        stored = getattr(cell, self.quantity.field)
        return None if stored is None or math.isnan(stored) else stored * self.quantity.factor

    def spread(self, cell: Cell | None) -> float | None:
        """Standard deviation over the seeds in the quantity's unit; only the metric has one."""
        if cell is None or cell.std is None or self.quantity.judged is None:
            return None
        return cell.std * self.quantity.factor

    def text(self, norm: str, batch_size: int) -> str:
        """The cell as text: "97.2 ± 0.3", "diverged" if no run converged, "–" if there is no figure."""
        cell = self.summary.cell(norm, batch_size)
        value, spread = self.value(cell), self.spread(cell)
        if cell is not None and cell.diverged == cell.n:
            return EMPTY if self.quantity.judged is None else DIVERGED
        if cell is None or value is None:
            return FAILED if cell is not None and self.quantity.judged is not None else EMPTY
        text = self.number(value)
        if spread is not None:
            text += f" ± {spread:.{self.decimals}f}"
        return text + (f" {DAGGER}" if (cell.diverged or cell.lost) and self.quantity.judged is not None else "")

    def number(self, value: float) -> str:
        """A figure with the table's digits; the sign of a gap is always shown."""
        rounded = round(value, self.decimals) + 0.0  # a negative zero becomes zero
        return f"{rounded:{'+' if self.quantity.signed and rounded else ''}.{self.decimals}f}"

    def is_best(self, norm: str, batch_size: int) -> bool:
        """Whether no other normalizer is better at this batch size, to the digits shown.

        If most of them share the best value, none is marked.
        """
        ranks = {}
        for other in self.norms:
            cell = self.summary.cell(other, batch_size)
            value = self.value(cell)
            if cell and value is not None and cell.diverged < cell.n:
                ranks[other] = self.quantity.rank(round(value, self.decimals))
        best = [other for other, rank in ranks.items() if rank == min(ranks.values())]
        return norm in best and 2 * len(best) <= len(ranks)

    def _decimals(self) -> int:
        if self.quantity.factor == 100:
            return 1
        values = [abs(value) for cell in self.summary.cells if (value := self.value(cell))]
        if self.quantity.judged is None:
            return min(3, _decimals_of(min(values))) if values else 0
        spreads = [spread for cell in self.summary.cells if (spread := self.spread(cell))]
        return _decimals_of(statistics.median(spreads)) if spreads else _decimals_of(min(values, default=1.0) / 100)


def _decimals_of(value: float) -> int:
    """The number of decimals that shows two significant digits of a positive number."""
    return min(MOST_DECIMALS, max(0, 1 - math.floor(math.log10(value))))


def tables(summary: Summary) -> list[Table]:
    """The metric, and those of train-eval gap, step time and peak memory that were measured."""
    step_time = ONE_AFTER_ANOTHER if summary.metric.own else STEP_TIME
    gap = GAP if summary.metric.share else GAP_OF_VALUES
    others = [Table(quantity, summary) for quantity in (gap, step_time, MEMORY)]
    measured = [table for table in others if any(getattr(c, table.quantity.field) is not None for c in summary.cells)]
    return [Table(judged_quantity(summary.metric), summary), *measured]


def divergence_note(summary: Summary) -> str | None:
    """The meaning of the dagger, if a table has one."""
    if summary.metric.own:
        lost = sum(cell.lost for cell in summary.cells if 0 < cell.lost < cell.n)
        return f"{DAGGER} without {lost} {'run' if lost == 1 else 'runs'} that gave no number." if lost else None
    some = [cell for cell in summary.cells if 0 < cell.diverged < cell.n]
    if not some:
        return None
    runs = sum(cell.diverged for cell in some)
    return (
        f"{DAGGER} {runs} {'run' if runs == 1 else 'runs'} diverged (the loss stopped being finite) and "
        f"{'counts' if runs == 1 else 'count'} with the {summary.metric.spoken} of {summary.metric.chance}."
    )
