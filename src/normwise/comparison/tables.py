"""The tables that the terminal and the report show: which quantity, which unit, how many digits, which is best."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from .cells import Cell
from .summary import Summary

EMPTY = "–"
DAGGER = "†"
DIVERGED = "diverged"


@dataclass(frozen=True)
class Quantity:
    """A figure of a `Cell` as people read it: `factor` turns it into `unit`, the best cell has the least `rank`."""

    field: str
    title: str
    unit: str
    factor: float
    rank: Callable[[float], float]
    signed: bool = False


ACCURACY = Quantity("mean", "Test accuracy", "%", 100, lambda value: -value)
GAP = Quantity("gap", "Train-eval gap", "points", 100, abs, signed=True)
STEP_TIME = Quantity("step_ms", "Step time", "ms", 1, lambda value: value)
MEMORY = Quantity("peak_memory_bytes", "Peak memory", "MB", 1e-6, lambda value: value)


class Table:
    """One quantity of a summary: `norms` are the rows and `batch_sizes` the columns."""

    def __init__(self, quantity: Quantity, summary: Summary) -> None:
        self.quantity, self.summary = quantity, summary
        self.norms = tuple(dict.fromkeys(cell.norm for cell in summary.cells))
        self.batch_sizes = tuple(sorted({cell.batch_size for cell in summary.cells}))
        self.decimals = self._decimals()

    def value(self, cell: Cell | None) -> float | None:
        """The cell's figure in the quantity's unit; of a cell without a converged run there is only the accuracy."""
        if cell is None or (cell.diverged == cell.n and self.quantity is not ACCURACY):
            return None
        stored = getattr(cell, self.quantity.field)
        return None if stored is None else stored * self.quantity.factor

    def spread(self, cell: Cell | None) -> float | None:
        """Standard deviation over the seeds, which only accuracy has, in the quantity's unit."""
        if cell is None or cell.std is None or self.quantity is not ACCURACY:
            return None
        return cell.std * self.quantity.factor

    def text(self, norm: str, batch_size: int) -> str:
        """The cell as people read it: "97.2 ± 0.3", "diverged" where no run converged, "–" where there is no figure."""
        cell = self.summary.cell(norm, batch_size)
        value, spread = self.value(cell), self.spread(cell)
        if cell is None or value is None:
            return EMPTY
        if cell.diverged == cell.n:
            return DIVERGED
        text = self.number(value)
        if spread is not None:
            text += f" ± {spread:.{self.decimals}f}"
        return text + (f" {DAGGER}" if cell.diverged and self.quantity is ACCURACY else "")

    def number(self, value: float) -> str:
        """A figure with the table's digits; the sign of a gap is always shown."""
        rounded = round(value, self.decimals) + 0.0  # a negative zero becomes zero
        return f"{rounded:{'+' if self.quantity.signed and rounded else ''}.{self.decimals}f}"

    def is_best(self, norm: str, batch_size: int) -> bool:
        """Whether no other normalizer is better at this batch size, to the digits shown.

        A best value that most of them share marks nobody.
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
        values = [value for cell in self.summary.cells if (value := self.value(cell))]
        return min(3, max(0, 1 - math.floor(math.log10(min(values))))) if values else 0


def tables(summary: Summary) -> list[Table]:
    """Accuracy, train-eval gap, step time and peak memory."""
    return [Table(quantity, summary) for quantity in (ACCURACY, GAP, STEP_TIME, MEMORY)]


def divergence_note(summary: Summary) -> str | None:
    """What the dagger means, where a table has one."""
    some = [cell for cell in summary.cells if 0 < cell.diverged < cell.n]
    if not some:
        return None
    runs = sum(cell.diverged for cell in some)
    return (
        f"{DAGGER} {runs} {'run' if runs == 1 else 'runs'} diverged (the loss stopped being finite) and "
        f"{'counts' if runs == 1 else 'count'} with the accuracy of always answering the most frequent class."
    )
