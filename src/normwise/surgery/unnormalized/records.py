"""The report of a conversion to a normalizer-free net."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from torch import nn

from ...signal.records import Trace
from ..report import Report, Table

#: The accepted range for the ratio of a block's variance to its prediction.
BAND = (0.5, 2.0)


class FreedBlock(NamedTuple):
    """One residual block: ``x' = shortcut + alpha · gain · branch``.

    - alpha: the given alpha divided by the predicted standard deviation at the end of the branch: so each branch adds
      the square of the given alpha to the variance.
    - beta: one over the predicted standard deviation at the block's input; it is part of the gains of the layers there.
    - predicted, variance: the variance of the block's output in the converted net, by `predict` and as measured.
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
    """A replaced module: its name, its class, ``"normalizer"`` or ``"layer"``, and the class of the new module."""

    name: str
    was: str
    kind: str
    now: str


@dataclass
class NormalizerFree(Report):
    """A net without normalizers, a row for each of its residual blocks, and its signal before and after.

    ``start`` is ``"fresh"`` or ``"folded"``. ``before``, ``after``: traces on the example, with the skip gains of a
    fresh start set to 1. ``predicted``: the prediction by `predict`. ``replaced``: every module that was replaced.
    ``drift`` and ``agreement``, for a folded start, compare the output in evaluation with the old model's: the root
    mean square of the difference divided by that of the old output, and the share of samples with the same largest
    output.
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
        counts = f"{len(self.replaced) - standardized} normalizers removed, {standardized} layers standardized"
        title = f"normalizer_free: {len(self.rows)} residual blocks, {counts}"
        return Table(title, columns, rows, [*self._notes()])

    def _notes(self) -> list[str]:
        outside = [row.name for row in self.rows if not BAND[0] <= row.ratio <= BAND[1]]
        notes = [f"Variance outside {BAND[0]:g} to {BAND[1]:g} of the prediction: {', '.join(outside)}."]
        notes = notes if outside else [f"Every variance is within {BAND[0]:g} to {BAND[1]:g} of the prediction."]
        if self.start == "fresh":
            return [*notes, "A fresh start: the net has to be trained, see docs/train_without_normalizers.md."]
        agreement = "" if self.agreement is None else f", top-1 agreement {self.agreement:.1%}"
        return [
            *notes,
            f"Started from the running statistics: the output differs from the old model's by {self.drift:.3g} of its "
            f"root mean square{agreement}. The net has to be fine-tuned before it is used.",
        ]
