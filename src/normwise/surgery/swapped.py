"""The report of a swap: rows, and the drift of the model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from .drifting import Distance
from .report import Report, Table

COLUMNS = {"name": "layer", "old": "old", "new": "new", "outcome": "outcome", "drift": "drift", "reason": "reason"}


class SwappedLayer(NamedTuple):
    """One normalizer.

    outcome: ``"swapped"``, or ``"kept"`` with the ``reason``; for a swapped one the reason lists the properties that
        could not be kept.
    drift: the root mean square of the difference between the new and the old layer's output, divided by that of the
        old output, for the input of the layer in the old model; None without an example.
    """

    name: str
    old: str
    new: str | None
    outcome: str
    reason: str | None
    drift: float | None = None


class SwapReport(Report):
    """The rows of a swap at one moment.

    ``t``: the state of the transition; 1 if there is none (any more). ``drift`` and ``agreement`` compare the whole
    model's output on the example with the old model's, None without an example; the agreement is the share of samples
    with the same largest output.
    """

    def __init__(
        self, model: str, rows: Sequence[SwappedLayer], rule: str | None, t: float, distance: Distance | None
    ) -> None:
        self.model, self.rows, self.rule, self.t = model, tuple(rows), rule, t
        self.drift = None if distance is None else distance.drift
        self.agreement = None if distance is None else distance.agreement

    def table(self) -> Table:
        swapped = sum(row.outcome == "swapped" for row in self.rows)
        title = f"{self.model}: {swapped} of {len(self.rows)} normalizers swapped, t = {self.t:g}"
        notes = [] if self.rule is None else [f"Groups: {self.rule}."]
        return Table(title, COLUMNS, [row._asdict() for row in self.rows], [*notes, self._whole()])

    def _whole(self) -> str:
        if self.drift is None:
            return "The drift was not measured: pass example_inputs."
        agreement = "" if self.agreement is None else f", top-1 agreement {100 * self.agreement:.1f} %"
        return (
            f"The whole model at t = {self.t:g}: its output differs from the old model's by {self.drift:.3g} of its "
            f"root mean square{agreement}. The drift of a layer is measured for that layer alone, at t = 1."
        )
