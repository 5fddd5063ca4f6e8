"""The interface between a sweep and the runs that it does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from ...layers import Norm
from ..events import Event
from ..metric import Metric
from ..settings import Run, Settings
from ..storage import Store
from ..training.loop import EpochReport

Row = dict[str, Any]
Listener = Callable[[Event], None]


class Experiment(Protocol):
    """The contestants and how to do one run of each. Building an experiment checks everything that could stop a run.

    `norms` are the contestants that can run, `missing` the (norm, batch size) at which one of them cannot, `left_out`
    the reasons, in sentences for the report.
    """

    settings: Settings
    norms: dict[str, Norm]
    missing: frozenset[tuple[str, int]]
    left_out: list[str]
    metric: Metric
    #: The learning rates that `prepare` has chosen, by (norm, batch size).
    rates: dict[tuple[str, int], float]

    def prepare(self, runs: Sequence[Run], tell: Listener, store: Store | None) -> None:
        """Do the work before the first run, except for the part whose results `store` holds."""
        ...

    def keys(self, runs: Sequence[Run]) -> dict[Run, str]:
        """For each run a hash of all that its result depends on."""
        ...

    def costs(self, runs: Sequence[Run]) -> dict[int, float]:
        """The expected time of a run at each batch size, in seconds or in any other unit."""
        ...

    def step_times(self, runs: Sequence[Run], /) -> dict[str, float | None]:
        """Milliseconds of a training step of each run, measured in turns; they replace a run's own measurement."""
        ...

    def run(self, run: Run, on_epoch: EpochReport) -> Row:
        """Do one run: all fields of its row but the key and the times."""
        ...

    def lost(self, message: str) -> Row:
        """The row of a run that ended its process in every attempt."""
        ...

    def about(self) -> dict[str, Any]:
        """The request, for `settings.json` and the report."""
        ...
