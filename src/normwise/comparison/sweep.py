"""The sweep: every normalizer at every batch size for every seed."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from datetime import datetime, timezone
from typing import Any

from .events import EpochFinished, Event, RunFinished, RunSkipped, RunStarted, SweepStarted
from .experiment import Experiment, Row, Tell
from .machine import machine, versions
from .progress import Progress
from .settings import Run
from .storage import Store

Listener = Callable[[Event], None]


class Sweep:
    """The runs of one experiment."""

    def __init__(self, experiment: Experiment) -> None:
        self.experiment = experiment
        self.runs = planned(experiment)

    def run(self, on_event: Listener | None, store: Store | None) -> list[Row]:
        """Do the runs that `store` does not hold yet; returns the rows of all runs in the order of the plan."""
        experiment = self.experiment
        tell: Tell = on_event or (lambda _: None)
        experiment.prepare(self.runs, tell, store)
        keys = experiment.keys(self.runs)
        known = {key: row for key, row in (store.rows() if store else {}).items() if row["status"] != "failed"}
        rows = {run: known[key] for run, key in keys.items() if key in known}
        progress = Progress(self.runs, experiment.costs(self.runs), rows)
        about = self.about()
        if store:
            store.write_settings(about | {"keys": list(keys.values())})
        tell(SweepStarted(out=store.folder if store else None, about=about, **_state(progress)))
        for run, row in rows.items():
            tell(RunSkipped(run=run, row=row, **_state(progress)))
        for _, group in itertools.groupby(self.runs, key=lambda run: (run.seed, run.batch_size)):
            pending = [run for run in group if run not in rows]
            step_ms = experiment.step_times(pending)
            for run in pending:
                tell(RunStarted(run=run, **_state(progress)))
                times = {"step_ms": step_ms[run.norm]} if run.norm in step_ms else {}
                rows[run] = {"key": keys[run], **self._run(run, progress, tell), **times}
                if store:
                    store.append(rows[run])
                progress.finish(run, rows[run]["seconds"])
                tell(RunFinished(run=run, row=rows[run], **_state(progress)))
        return [rows[run] for run in self.runs]

    def about(self) -> dict[str, Any]:
        """Settings, data, protocol, machine and versions, for `settings.json` and the report."""
        return self.experiment.about() | {
            "left_out": list(self.experiment.left_out),
            "missing": sorted(map(list, self.experiment.missing)),
            "machine": machine(self.experiment.settings.device),
            "versions": versions(),
        }

    def _run(self, run: Run, progress: Progress, tell: Tell) -> Row:
        begin, started = time.perf_counter(), datetime.now(timezone.utc)
        epochs = self.experiment.settings.epochs

        def on_epoch(epoch: int, train_loss: float | None, value: float | None) -> None:
            state = _state(progress, run, min(1.0, epoch / epochs), time.perf_counter() - begin)
            metric = self.experiment.metric
            tell(
                EpochFinished(
                    run=run, epoch=epoch, epochs=epochs, train_loss=train_loss, metric=metric, value=value, **state
                )
            )

        result = self.experiment.run(run, on_epoch)
        return {
            **run._asdict(),
            **result,
            "seconds": time.perf_counter() - begin,
            "started": started.isoformat(timespec="seconds"),
            "versions": versions(),
        }


def planned(experiment: Experiment) -> list[Run]:
    """A seed at a time, large batches (the short runs) first, all normalizers of a batch size together: whenever the
    sweep is stopped, what is finished can be compared."""
    settings = experiment.settings
    sizes = sorted(settings.batch_sizes, reverse=True)
    grid = itertools.product(settings.seeds, sizes, settings.norms)
    return [Run(norm, size, seed) for seed, size, norm in grid if (norm, size) not in experiment.missing]


def _state(progress: Progress, run: Run | None = None, part: float = 0.0, seconds: float = 0.0) -> dict[str, Any]:
    return {
        "done": progress.done,
        "total": progress.total,
        "work_done": progress.share(run, part),
        "seconds_left": progress.seconds_left(run, part, seconds),
    }
