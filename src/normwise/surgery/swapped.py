"""What a swap did: rows, and how far the model is from what it was."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from .drifting import Distance
from .report import Report, Table

COLUMNS = {"name": "layer", "old": "old", "new": "new", "outcome": "outcome", "drift": "drift", "reason": "reason"}


class SwappedLayer(NamedTuple):
    """One normalizer.

    outcome: ``"swapped"``, or ``"kept"`` with the ``reason``; of a swapped one the reason is what it could not
        take along.
    drift: the root mean square of how the new layer's output differs from the old one's, over that of the old one, on
        what the layer was given in the old model; None without an example.
    """

    name: str
    old: str
    new: str | None
    outcome: str
    reason: str | None
    drift: float | None = None


class SwapReport(Report):
    """The rows of a swap at one moment.

    ``t``: how far the transition is; 1 where there is none (any more). ``drift`` and ``agreement``: those of the whole
    model's output on the example against the old model, None without an example; the agreement is the share of samples
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
            return "Drift was not measured: pass example_inputs."
        agreement = "" if self.agreement is None else f", top-1 agreement {100 * self.agreement:.1f} %"
        return (
            f"The whole model at t = {self.t:g}: its output differs from the old model's by {self.drift:.3g} of its "
            f"root mean square{agreement}. The layers' drifts are each one's own, at t = 1."
        )
