"""A sweep in several processes of this machine, which share one folder."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing import connection
from pathlib import Path

import torch

from ..events import EpochFinished, Event, RunFinished, RunSkipped, RunStarted
from ..experiments.experiment import Row
from ..request import Request, open_experiment
from ..settings import InputError, Run
from ..storage import Store
from .sweep import Listener, Sweep, grouped

# How often a run may end its process, and how many processes may end before they begin a run.
MOST_DEATHS, MOST_FALSE_STARTS = 3, 3
LOOK_AROUND = 1.0
MOST_TIMED_SEEDS = 3


@contextmanager
def threads_of_each(jobs: int) -> Iterator[int]:
    """The number of threads for one of `jobs` processes; inside the block torch uses this number."""
    before = torch.get_num_threads()
    threads = before if jobs == 1 else max(1, _processors() // jobs)
    torch.set_num_threads(threads)
    try:
        yield threads
    finally:
        torch.set_num_threads(before)


def _processors() -> int:
    """The number of processors that this process may use; all of them if the system does not tell."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def check_jobs(jobs: int) -> None:
    """Raises InputError for an invalid number of processes."""
    if isinstance(jobs, bool) or not isinstance(jobs, int) or jobs < 1:
        raise InputError(f"jobs must be how many processes do runs at a time, at least 1; received {jobs!r}.")


def run_in_processes(
    sweep: Sweep, request: Request, store: Store, jobs: int, threads: int, on_event: Listener | None
) -> list[Row]:
    """The rows of all runs, done by `jobs` processes of so many threads.

    Step times are measured first, while nothing else runs. If a process ends during a run, its claim is released,
    another process does the run, and a new process replaces it. A run that has ended `MOST_DEATHS` processes has
    failed.
    """
    sweep.begin(on_event, store, jobs)
    _measure_step_times(sweep, store)
    crew = _Crew(sweep, request, store, threads)
    try:
        for _ in range(min(jobs, len(sweep.pending()))):
            crew.hire()
        while not crew.over and (crew.busy or sweep.pending()):
            crew.listen()
    finally:
        crew.dismiss()
    return sweep.finished()


def _measure_step_times(sweep: Sweep, store: Store) -> None:
    """Measure the step times with the first seeds only; more seeds would take long and add no information."""
    timed = sweep.experiment.settings.seeds[:MOST_TIMED_SEEDS]
    for group in grouped([run for run in sweep.runs if run not in sweep.rows]):
        found = sweep.step_times(group) if group[0].seed in timed else {run.norm: None for run in group}
        for run in group:
            if run.norm in found:
                store.append_step_time(sweep.keys[run], found[run.norm])


class _Worker:
    """A process, and the run that it is doing."""

    def __init__(self, request: Request, part: tuple[int, int], budget: float, folder: Path, threads: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, other = context.Pipe(duplex=False)
        self.process = context.Process(target=_work, args=(request, part, budget, folder, threads, other))
        self.process.start()
        other.close()
        self.run: Run | None = None


class _Crew:
    """The processes of a sweep."""

    def __init__(self, sweep: Sweep, request: Request, store: Store, threads: int) -> None:
        self.sweep, self.request, self.store, self.threads = sweep, request, store, threads
        self.workers: list[_Worker] = []
        self.deaths: Counter[Run] = Counter()
        self.false_starts = 0
        #: Whether the workers have ended because nothing is left to do.
        self.over = False

    def hire(self) -> None:
        left = self.sweep.ends_at - time.monotonic()
        self.workers.append(_Worker(self.request, self.sweep.part, left, self.store.folder, self.threads))

    @property
    def busy(self) -> bool:
        """Whether a worker is doing a run."""
        return any(worker.run is not None for worker in self.workers)

    def listen(self) -> None:
        """Handle the messages of the workers until there are none for a while or a worker has ended."""
        if not self.workers:
            self._look_around()
            return
        ready = connection.wait([worker.connection for worker in self.workers], LOOK_AROUND)
        for worker in [worker for worker in self.workers if worker.connection in ready]:
            try:
                self._take_in(worker, worker.connection.recv())
            except (EOFError, OSError):
                self._bury(worker)

    def dismiss(self) -> None:
        for worker in self.workers:
            worker.process.terminate()
        for worker in self.workers:
            worker.process.join()
            worker.connection.close()

    def _look_around(self) -> None:
        """Detect that all workers have finished: no run is left, or none that fits into the budget."""
        for run in self.sweep.pending():
            with self.sweep.claim(run):
                pass
        self.over = True

    def _take_in(self, worker: _Worker, event: Event | InputError) -> None:
        sweep = self.sweep
        if isinstance(event, InputError):
            raise event
        if isinstance(event, RunStarted):
            worker.run = event.run
            sweep.tell(RunStarted(run=event.run, **sweep.state()))
        elif isinstance(event, EpochFinished):
            sweep.tell(replace(event, **sweep.state(event.run, event.epoch / event.epochs)))
        elif isinstance(event, (RunFinished, RunSkipped)):
            worker.run = None
            if event.run not in sweep.rows:
                sweep.take(event.run, event.row)

    def _bury(self, worker: _Worker) -> None:
        self.workers.remove(worker)
        worker.process.join()
        worker.connection.close()
        if worker.process.exitcode == 0 or not self.sweep.pending():
            return
        if worker.run is None:
            self.false_starts += 1
        else:
            self.deaths[worker.run] += 1
            if self.deaths[worker.run] >= MOST_DEATHS:
                self._give_up(worker.run, worker.process.exitcode)
        if self.false_starts >= MOST_FALSE_STARTS:
            raise RuntimeError(
                f"{self.false_starts} processes of jobs= ended before they began a run (exit code "
                f"{worker.process.exitcode}); what they wrote above says why. A script that calls compare(jobs=...) "
                "must do so under `if __name__ == '__main__':`."
            )
        self.hire()

    def _give_up(self, run: Run, exit_code: int | None) -> None:
        """Record a run that ended every process that did it as failed."""
        with self.sweep.claim(run) as mine:
            if not mine:
                return
            message = f"Its process ended {MOST_DEATHS} times, the last time with exit code {exit_code}."
            self.sweep.write(run, self.sweep.lost(run, message))


def _work(
    request: Request, part: tuple[int, int], budget: float, folder: Path, threads: int, out: connection.Connection
) -> None:
    """The main function of a worker: do the same sweep in the same folder, and send each event to the parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C and ends the workers
    threading.Thread(target=_end_with_the_head, daemon=True).start()
    torch.set_num_threads(threads)
    try:
        with Store(folder) as store:
            Sweep(open_experiment(request), part, budget).run(out.send, store)
    except InputError as error:  # such as a full disk: the parent raises it for its caller
        out.send(error)


def _end_with_the_head() -> None:
    head = multiprocessing.parent_process()
    if head is not None:
        connection.wait([head.sentinel])
        os._exit(1)
