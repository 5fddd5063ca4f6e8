"""What a conversion to a normalizer-free net reports."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from torch import nn

from ...signal.records import Trace
from ..report import Report, Table

#: Between which ratios to its prediction a block's variance is in order.
BAND = (0.5, 2.0)


class FreedBlock(NamedTuple):
    """One residual block: ``x' = shortcut + alpha · gain · branch``.

    alpha: over the standard deviation expected at the end of the branch, so that a branch adds alpha² to the variance.
    beta: one over the standard deviation expected at the block's input; the gains of the layers that read it hold it.
    predicted, variance: of the block's output, in the converted net, by `predict` and as measured.
    """

    name: str
    alpha: float
    beta: float
    predicted: float
    variance: float

    @property
    def ratio(self) -> float:
        return self.variance / self.predicted if self.predicted else float("nan")


class Replaced(NamedTuple):
    """A module that is another one now: its name, its class, ``"normalizer"`` or ``"layer"``, and what it became."""

    name: str
    was: str
    kind: str
    now: str


@dataclass
class NormalizerFree(Report):
    """A net without normalizers, a row for each of its residual blocks, and its signal before and after.

    ``start`` is ``"fresh"`` or ``"folded"``. ``before``, ``after``: traces on the example, skip gains of a fresh start
    taken for 1. ``predicted``: what `predict` expects of the net. ``replaced``: every module that is another one now.
    ``drift`` and ``agreement``: how far the output in evaluation is from the old model's, of a folded start: the root
    mean square of the difference over that of the old output, and the share of samples with the same largest output.
    """

    model: nn.Module
    rows: list[FreedBlock]
    before: Trace
    after: Trace
    predicted: Trace
    start: str
    replaced: list[Replaced]
    drift: float | None
    agreement: float | None

    def table(self) -> Table:
        columns = {"name": "block", "alpha": "alpha", "beta": "beta"}
        columns |= {"predicted": "predicted", "variance": "measured", "ratio": "ratio"}
        rows = [{**row._asdict(), "ratio": row.ratio} for row in self.rows]
        standardized = sum(replaced.kind == "layer" for replaced in self.replaced)
        counts = f"{len(self.replaced) - standardized} normalizers taken out, {standardized} layers standardized"
        title = f"normalizer_free: {len(self.rows)} residual blocks, {counts}"
        return Table(title, columns, rows, [*self._notes()])

    def _notes(self) -> list[str]:
        outside = [row.name for row in self.rows if not BAND[0] <= row.ratio <= BAND[1]]
        notes = [f"Variance outside {BAND[0]:g} to {BAND[1]:g} of the prediction: {', '.join(outside)}."]
        notes = notes if outside else [f"Every variance is within {BAND[0]:g} to {BAND[1]:g} of the prediction."]
        if self.start == "fresh":
            return [*notes, "A fresh start: the net has to be trained, see the page 'normalizer-free'."]
        agreement = "" if self.agreement is None else f", top-1 agreement {self.agreement:.1%}"
        return [
            *notes,
            f"Started from the running statistics: the output differs from the old model's by {self.drift:.3g} of its "
            f"root mean square{agreement}. The net has to be fine-tuned before it is used.",
        ]
