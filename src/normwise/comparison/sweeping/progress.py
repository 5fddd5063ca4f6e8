"""The share of a sweep's work that is done, and the estimated time for the rest."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ..settings import Run


class Progress:
    """The progress of a sweep. The time of a run is predicted from a timed step at its batch size, and the prediction
    is corrected by the finished runs. `at_once` runs are done at the same time.

    >>> progress = Progress([Run("batch", 2, 0), Run("batch", 8, 0)], cost={2: 30.0, 8: 10.0}, finished=[])
    >>> progress.finish(Run("batch", 8, 0), seconds=20.0)
    >>> progress.done, progress.share(), progress.seconds_left()
    (1, 0.25, 60.0)
    """

    def __init__(
        self, runs: Iterable[Run], cost: Mapping[int, float], finished: Iterable[Run], at_once: int = 1
    ) -> None:
        self.cost, self.at_once = cost, at_once
        pending = list(runs)
        earlier = list(finished)
        self.total = len(pending)
        self.done = len(earlier)
        self.work = sum(cost[run.batch_size] for run in pending)
        self.earlier = sum(cost[run.batch_size] for run in earlier)
        self.predicted = self.spent = 0.0

    def finish(self, run: Run, seconds: float) -> None:
        """Record that a run has ended after so many seconds."""
        self.done += 1
        self.predicted += self.cost[run.batch_size]
        self.spent += seconds

    def expected(self, run: Run) -> float:
        """Estimated seconds of a run, 0 before any is finished."""
        return self.spent / self.predicted * self.cost[run.batch_size] if self.predicted else 0.0

    def share(self, run: Run | None = None, part: float = 0.0) -> float:
        """Share of the work done, with `part` of the current run."""
        return min(1.0, (self.earlier + self.predicted + self._current(run, part)) / self.work)

    def seconds_left(self, run: Run | None = None, part: float = 0.0, seconds: float = 0.0) -> float:
        """Estimated seconds to the end, `seconds` into `part` of the current run."""
        current = self._current(run, part)
        predicted = self.predicted + current
        correction = (self.spent + seconds) / predicted if predicted else 1.0
        return correction * max(0.0, self.work - self.earlier - predicted) / self.at_once

    def _current(self, run: Run | None, part: float) -> float:
        return self.cost[run.batch_size] * part if run else 0.0
