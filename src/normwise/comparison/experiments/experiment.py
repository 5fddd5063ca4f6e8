"""What a sweep runs: the contestants, and one run of any of them."""

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
    """Building one checks everything that could stop a run.

    `norms` are the contestants that can run, `missing` the (norm, batch size) at which one of them cannot, `left_out`
    says for the reader why.
    """

    settings: Settings
    norms: dict[str, Norm]
    missing: frozenset[tuple[str, int]]
    left_out: list[str]
    metric: Metric
    #: What `prepare` has chosen for each (norm, batch size).
    rates: dict[tuple[str, int], float]

    def prepare(self, runs: Sequence[Run], tell: Listener, store: Store | None) -> None:
        """What comes before the first run; what `store` holds of it is not done again."""
        ...

    def keys(self, runs: Sequence[Run]) -> dict[Run, str]:
        """For each run a hash of all that its result depends on."""
        ...

    def costs(self, runs: Sequence[Run]) -> dict[int, float]:
        """What a run at each batch size takes, in seconds or in any other unit."""
        ...

    def step_times(self, runs: Sequence[Run], /) -> dict[str, float | None]:
        """Milliseconds of a training step of each, taken side by side, in the place of what a run says itself."""
        ...

    def run(self, run: Run, on_epoch: EpochReport) -> Row:
        """Do one run: all fields of its row but the key and the times."""
        ...

    def lost(self, message: str) -> Row:
        """What `run` would give of a run that ended its process each time."""
        ...

    def about(self) -> dict[str, Any]:
        """What was asked for, for `settings.json` and the report."""
        ...
