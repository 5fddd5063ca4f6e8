"""The report of `recalibrate`, and its `undo`."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from statistics import median
from typing import NamedTuple

from torch import nn

from ..core.model_change import ModelChange
from .report import Report, Table

#: A mean is certain enough when its standard error is below this share of σ.
SURE = 0.05
#: A larger drift, in units of the old σ, gives a warning.
FAR = 1.0
COLUMNS = {
    "name": "layer",
    "outcome": "outcome",
    "samples": "samples",
    "drift": "drift",
    "uncertainty": "uncertainty",
    "reason": "reason",
}


class RecalibratedLayer(NamedTuple):
    """One layer with running statistics.

    outcome: ``"recalibrated"``, or ``"kept"`` with the ``reason``.
    samples: the number of samples of its new statistics.
    drift: the distance between new and old statistics in units of the old σ: the root mean square over the channels of
        ``√((μ - μ₀)² + (σ - σ₀)²) / σ₀``, the Wasserstein distance of the two normal distributions. None for a layer
        whose statistics had never been updated.
    uncertainty: the standard error of the least certain mean as a share of its σ.
    converged: whether the uncertainty is below the tolerance.
    """

    name: str
    outcome: str
    reason: str | None = None
    samples: int = 0
    drift: float | None = None
    uncertainty: float | None = None
    converged: bool = False


class Recalibrated(Report):
    """The rows of a recalibration, and `undo`.

    ``samples`` and ``batches`` are the numbers of samples and batches of the statistics, over all processes.
    """

    def __init__(self, change: ModelChange, rows: Sequence[RecalibratedLayer], batches: int, tolerance: float) -> None:
        self._change, self._tolerance = change, tolerance
        self.rows, self.batches = tuple(rows), batches
        self.samples = max((row.samples for row in rows), default=0)
        self.notes = tuple(self._doubts())

    @property
    def converged(self) -> bool:
        """Whether the means of every layer are certain enough."""
        return all(row.converged for row in self.rows if row.outcome == "recalibrated")

    @property
    def drift(self) -> float:
        """The largest of the layers' drifts; NaN if none had statistics before."""
        return max((row.drift for row in self.rows if row.drift is not None), default=float("nan"))

    def undo(self) -> nn.Module:
        """Restore the old statistics of every layer.

        Raises ValueError, and changes nothing, if they were changed since then or were restored already.
        """
        return self._change.undo()

    def table(self) -> Table:
        done = sum(row.outcome == "recalibrated" for row in self.rows)
        title = (
            f"{type(self._change.model).__name__}: {done} of {len(self.rows)} layers recalibrated by {self.samples} "
            f"samples in {self.batches} batches"
        )
        return Table(title, COLUMNS, [row._asdict() for row in self.rows], self.notes)

    def warn(self) -> None:
        for note in self.notes:
            warnings.warn(f"recalibrate: {note}", UserWarning, stacklevel=3)

    def _doubts(self) -> Iterator[str]:
        unsure = [row for row in self.rows if row.uncertainty is not None and not row.converged]
        if unsure:
            worst = max(unsure, key=lambda row: row.uncertainty or 0.0)
            yield (
                f"Few samples: after {worst.samples} the mean of a channel of layer {worst.name} is known to "
                f"{worst.uncertainty:.2g} of its σ (standard error; the limit of {self._tolerance:g} is exceeded in "
                f"{len(unsure)} of {len(self.rows)} layers). Statistics of few samples may be worse than the old ones: "
                "pass more samples, or keep a part of the old statistics with blend=0.5."
            )
        drifts = {row.name: row.drift for row in self.rows if row.drift is not None}
        far = max(drifts, key=lambda name: drifts[name], default=None)
        if far is not None and drifts[far] > FAR:
            yield (
                f"Large drift: the statistics of layer {far} moved by {drifts[far]:.2g} of their old σ (the median of "
                f"{len(drifts)} layers is {median(drifts.values()):.2g}). Either the old ones were wrong, or these are "
                "not the data that the weights were trained on; measure the accuracy, and go back with undo()."
            )
