"""The sweep: every normalizer at every batch size for every seed."""

from __future__ import annotations

import itertools
import math
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timezone
from typing import Any

from ..events import EpochFinished, RunFinished, RunSkipped, RunStarted, SweepStarted
from ..experiments.experiment import Experiment, Listener, Row
from ..machine import machine, versions
from ..settings import InputError, Run
from ..storage import Store, stamp
from ..verdicts.sequential import stops_among
from .progress import Progress

# Seconds between two checks for results of other processes.
WAIT = 0.5


class Sweep:
    """The runs of one experiment, or one part of them: `part` is (number of the part from 1, number of parts).

    `budget` is a time limit in seconds: a run is started only if it will probably end before it.
    """

    def __init__(self, experiment: Experiment, part: tuple[int, int] = (1, 1), budget: float = math.inf) -> None:
        self.experiment, self.part = experiment, part
        self.ends_at = time.monotonic() + budget
        self.plan = planned(experiment)
        self.runs = self.plan[part[0] - 1 :: part[1]]
        self.keys: dict[Run, str] = {}
        self.rows: dict[Run, Row] = {}
        self.retried: frozenset[str] = frozenset()
        self.progress = Progress(self.runs, dict.fromkeys(experiment.settings.batch_sizes, 1.0), ())
        self.tell: Listener = lambda _: None
        self.store: Store | None = None
        self._step_ms: dict[tuple[int, int], Mapping[str, float | None]] = {}

    def run(self, on_event: Listener | None, store: Store | None) -> list[Row]:
        """Do the runs that `store` does not hold yet; returns the rows of all runs in the order of the plan.

        It waits for runs of other processes in the same folder, and does them here if such a process dies.
        """
        self.begin(on_event, store)
        while pending := self.pending():
            before = len(self.rows)
            for group in grouped(pending):
                for run in group:
                    self._do_if_free(run, group)
            if len(self.rows) == before:
                time.sleep(WAIT)
        return self.finished()

    def begin(self, on_event: Listener | None, store: Store | None, at_once: int = 1) -> None:
        """Prepare the sweep, find the finished runs and report them; `at_once` runs will be done at the same time."""
        self.tell, self.store = on_event or self.tell, store
        self.experiment.prepare(self.runs, self.tell, store)
        self.keys = self.experiment.keys(self.plan)
        about = self.about()
        known: Mapping[str, Row] = {}
        if store:
            self.retried = store.begin(about, list(self.keys.values()))
            known = {key: row for key, row in store.rows().items() if stamp(row) not in self.retried}
        self.rows = {run: known[self.keys[run]] for run in self.runs if self.keys[run] in known}
        self.progress = Progress(self.runs, self.experiment.costs(self.runs), self.rows, at_once)
        self.tell(SweepStarted(out=store.folder if store else None, about=about, **self.state()))
        for run, row in self.rows.items():
            self.tell(RunSkipped(run=run, row=row, **self.state()))

    def pending(self) -> list[Run]:
        """The next runs: all that are left or, if runs may be stopped, those left of the first unfinished seed. Runs
        that would not fit into the budget are left out."""
        pending = [run for run in self.runs if run not in self.rows]
        looks = self.experiment.settings.looks
        if looks and pending:
            places = dict.fromkeys((run.norm, run.batch_size) for run in self.plan)
            rows = [self.rows[run] for run in self.plan if run in self.rows]
            stops = stops_among(rows, places, looks)
            pending = [run for run in pending if not stops.holds(run.norm, run.batch_size)]
            pending = [run for run in pending if run.seed == pending[0].seed]
        left = self.ends_at - time.monotonic()
        return [run for run in pending if self.progress.expected(run) <= left]

    def finished(self) -> list[Row]:
        """The rows of the runs that are done, in the order of the plan."""
        return [self.rows[run] for run in self.runs if run in self.rows]

    def step_times(self, runs: Sequence[Run]) -> dict[str, float | None]:
        """The step times of a group, by normalizer: those that the folder has, else measured now."""
        known = self.store.step_times() if self.store else {}
        if all(self.keys[run] in known for run in runs):
            return {run.norm: known[self.keys[run]] for run in runs}
        return self.experiment.step_times(runs)

    def state(self, run: Run | None = None, part: float = 0.0, seconds: float = 0.0) -> dict[str, Any]:
        """The progress fields of an event; `run` has been running for `seconds` and is done to the share `part`."""
        return {
            "done": self.progress.done,
            "total": self.progress.total,
            "work_done": self.progress.share(run, part),
            "seconds_left": self.progress.seconds_left(run, part, seconds),
        }

    @contextmanager
    def claim(self, run: Run) -> Iterator[bool]:
        """Whether this process should do a run: no other process is doing it or has done it in the meantime."""
        if self.store is None:
            yield True
            return
        with self.store.claim(self.plan.index(run)) as free:
            row = self.store.rows().get(self.keys[run]) if free else None
            done = row is not None and stamp(row) not in self.retried
            if row is not None and done:
                self.rows[run] = row
                self.progress.finish(run, row["seconds"])
                self.tell(RunSkipped(run=run, row=row, **self.state()))
            yield free and not done

    def write(self, run: Run, row: Row) -> None:
        """Add the key to the row of a run that was done here, and store it."""
        row = {"key": self.keys[run], **row}
        if self.store:
            self.store.append(row)
        self.take(run, row)

    def lost(self, run: Run, message: str) -> Row:
        """The row of a run that ended every process that did it."""
        return run._asdict() | self.experiment.lost(message) | _done(time.perf_counter(), datetime.now(timezone.utc))

    def take(self, run: Run, row: Row) -> None:
        """Record that a run is finished, and keep its row."""
        self.rows[run] = row
        self.progress.finish(run, row["seconds"])
        self.tell(RunFinished(run=run, row=row, **self.state()))

    def about(self) -> dict[str, Any]:
        """Settings, data, protocol, machine and versions, for `settings.json` and the report."""
        return self.experiment.about() | {
            "left_out": list(self.experiment.left_out),
            "missing": sorted(map(list, self.experiment.missing)),
            "machine": machine(self.experiment.settings.device),
            "versions": versions(),
        }

    def do(self, run: Run) -> Row:
        """One run, and its row without a key."""
        begin, started = time.perf_counter(), datetime.now(timezone.utc)
        epochs, metric = self.experiment.settings.epochs, self.experiment.metric

        def on_epoch(epoch: int, train_loss: float | None, value: float | None) -> None:
            state = self.state(run, min(1.0, epoch / epochs), time.perf_counter() - begin)
            about = {"epoch": epoch, "epochs": epochs, "train_loss": train_loss, "metric": metric, "value": value}
            self.tell(EpochFinished(run=run, **about, **state))

        result = self.experiment.run(run, on_epoch)
        return {
            **run._asdict(),
            **result,
            **_done(begin, started),
        }

    def _times_once(self, group: Sequence[Run]) -> Mapping[str, float | None]:
        """The step times of a group, measured when the first of its runs is done here."""
        at = group[0].seed, group[0].batch_size
        if at not in self._step_ms:
            self._step_ms[at] = self.step_times(group)
        return self._step_ms[at]

    def _do_if_free(self, run: Run, group: Sequence[Run]) -> None:
        with self.claim(run) as mine:
            if not mine or self.progress.expected(run) > self.ends_at - time.monotonic():
                return
            step_ms = self._times_once(group)
            self.tell(RunStarted(run=run, **self.state()))
            times = {"step_ms": step_ms[run.norm]} if run.norm in step_ms else {}
            self.write(run, self.do(run) | times)


def _done(begin: float, started: datetime) -> Row:
    """The fields that every row has: times and versions."""
    seconds = time.perf_counter() - begin
    return {"seconds": seconds, "started": started.isoformat(timespec="microseconds"), "versions": versions()}


def grouped(runs: Sequence[Run]) -> Iterator[list[Run]]:
    """All normalizers of a seed and batch size together."""
    for _, group in itertools.groupby(runs, key=lambda run: (run.seed, run.batch_size)):
        yield list(group)


def parse_budget(budget: str | float | None) -> float:
    """Seconds.

    >>> parse_budget("30m"), parse_budget("1.5h"), parse_budget(90), parse_budget(None)
    (1800.0, 5400.0, 90.0, inf)
    """
    if budget is None:
        return math.inf
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", str(budget)) if not isinstance(budget, bool) else None
    seconds = float(found[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[found[2]] if found else 0.0
    if not seconds:
        raise InputError(f"budget must be a time such as '30m', '2h' or '90s', received {budget!r}.")
    return seconds


def parse_shard(shard: str | None) -> tuple[int, int]:
    """The part of a sweep and the number of parts.

    >>> parse_shard("3/16"), parse_shard(None)
    ((3, 16), (1, 1))
    """
    if shard is None:
        return 1, 1
    numbers = re.fullmatch(r"(\d+)/(\d+)", shard) if isinstance(shard, str) else None
    part, parts = map(int, numbers.groups()) if numbers else (0, 0)
    if not 1 <= part <= parts:
        raise InputError(f"shard must be a part of how many, from '1/16' to '16/16', received {shard!r}.")
    return part, parts


def planned(experiment: Experiment) -> list[Run]:
    """The runs in order: seed by seed, large batches (the short runs) first, all normalizers of a batch size together.
    So the finished runs can be compared whenever the sweep is stopped."""
    settings = experiment.settings
    sizes = sorted(settings.batch_sizes, reverse=True)
    grid = itertools.product(settings.seeds, sizes, settings.norms)
    return [Run(norm, size, seed) for seed, size, norm in grid if (norm, size) not in experiment.missing]
