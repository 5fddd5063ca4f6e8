"""The sweep: every normalizer at every batch size for every seed."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from typing import Any

import torch

from ..layers import Norm
from .data import Data
from .events import EpochFinished, Event, RunFinished, RunSkipped, RunStarted, SweepStarted
from .isolation import isolated
from .machine import machine, versions
from .models import Network, Recipe, first_line
from .progress import Progress
from .settings import InputError, Run, Settings, digest
from .storage import Store
from .training import Trainer, train

Listener = Callable[[Event], None]
Row = dict[str, Any]

TIMED_STEPS = 10
TIMING_SECONDS = 1.0


class Sweep:
    """Runs of one model on one data set; building it checks everything that could stop a run.

    `left_out` says, for the reader, which contestants that were asked for cannot take part.
    """

    def __init__(
        self,
        settings: Settings,
        norms: dict[str, Norm],
        data: Data,
        recipe: Recipe,
        left_out: Sequence[str] = (),
    ) -> None:
        self.settings, self.norms, self.recipe, self.left_out = settings, norms, recipe, left_out
        largest = max(settings.batch_sizes)
        if largest > len(data.x_train):
            raise InputError(
                f"Batch size {largest} is larger than the training split of {data.name} ({len(data.x_train)} "
                f"samples); write a batch size of at most {len(data.x_train)}."
            )
        self.data = data.to(settings.device)
        for norm in norms:
            self._check(norm)
        self.cost = {size: self._cost(size) for size in settings.batch_sizes}
        self.runs = self._plan()
        self.keys = self._keys()

    def run(self, on_event: Listener | None, store: Store | None) -> list[Row]:
        """Do the runs that `store` does not hold yet; returns the rows of all runs in the order of the plan."""
        tell: Listener = on_event or (lambda _: None)
        known = store.rows() if store else {}
        rows = {run: known[key] for run, key in self.keys.items() if key in known}
        progress = Progress(self.runs, self.cost, rows)
        if store:
            store.write_settings(self.about())
        tell(SweepStarted(out=store.folder if store else None, about=self.about(), **_state(progress)))
        for run in self.runs:
            if run in rows:
                tell(RunSkipped(run=run, row=rows[run], **_state(progress)))
                continue
            tell(RunStarted(run=run, **_state(progress)))
            rows[run] = self._run(run, progress, tell)
            if store:
                store.append(rows[run])
            progress.finish(run, rows[run]["seconds"])
            tell(RunFinished(run=run, row=rows[run], **_state(progress)))
        return [rows[run] for run in self.runs]

    def about(self) -> dict[str, Any]:
        """Settings, data, protocol, machine and versions, for `settings.json` and the report."""
        data = self.data
        return {
            "settings": asdict(self.settings),
            "data": {
                "name": data.name,
                "sample_shape": list(data.sample_shape),
                "classes": list(data.classes),
                "train_samples": len(data.x_train),
                "test_samples": len(data.x_test),
                "fingerprint": data.fingerprint,
            },
            "protocol": self.settings.protocol(),
            "left_out": list(self.left_out),
            "rates": {str(size): self.settings.rate(size) for size in self.settings.batch_sizes},
            "machine": machine(self.settings.device),
            "versions": versions(),
        }

    def _plan(self) -> list[Run]:
        # A seed at a time, large batches (the short runs) first, all normalizers of a batch size together:
        # whenever the sweep is stopped, what is finished can be compared.
        sizes = sorted(self.settings.batch_sizes, reverse=True)
        grid = itertools.product(self.settings.seeds, sizes, self.settings.norms)
        return [Run(norm, size, seed) for seed, size, norm in grid]

    def _keys(self) -> dict[Run, str]:
        models = {name: self.recipe.fingerprint(norm) for name, norm in self.norms.items()}
        shared = [self.settings.identity(), self.data.fingerprint, versions()]
        return {run: digest([*shared, models[run.norm], run]) for run in self.runs}

    def _network(self, run: Run) -> Network:
        network = self.recipe.build(self.norms[run.norm], run.seed)
        return network._replace(module=network.module.to(self.settings.device))

    def _check(self, norm: str) -> None:
        run = Run(norm, min(self.settings.batch_sizes), self.settings.seeds[0])
        try:
            self._steps(run, most=1)
        except InputError:
            raise
        except Exception as error:  # the model's own code and any layer may raise anything
            raise InputError(
                f"{self.recipe.name} with {norm!r} fails on {self.data.name}: {first_line(error)} "
                "Leave this normalizer out or choose another model."
            ) from error

    def _cost(self, batch_size: int) -> float:
        run = Run(self.settings.norms[0], batch_size, self.settings.seeds[0])
        steps = len(self.data.x_train) // batch_size * self.settings.epochs
        try:
            return steps * min(self._steps(run, most=TIMED_STEPS))
        except torch.OutOfMemoryError as error:
            raise InputError(
                f"A training step at batch size {batch_size} does not fit into the memory of "
                f"{self.settings.device}; write smaller batch sizes."
            ) from error

    def _steps(self, run: Run, most: int) -> list[float]:
        """Seconds of the first training steps of a network that is thrown away, fewer where they are slow."""
        with isolated(run.seed, self.settings.device, self.settings.threads):
            trainer = Trainer(self._network(run), self.data, run, self.settings)
            x, y = self.data.x_train[: run.batch_size], self.data.y_train[: run.batch_size]
            while len(trainer.timed) < most and sum(trainer.timed) < TIMING_SECONDS:
                trainer.timed_step(x, y)
        return trainer.timed

    def _run(self, run: Run, progress: Progress, tell: Listener) -> Row:
        begin, started = time.perf_counter(), datetime.now(timezone.utc)
        epochs = self.settings.epochs

        def on_epoch(epoch: int, train_loss: float | None, test_accuracy: float) -> None:
            state = _state(progress, run, epoch / epochs, time.perf_counter() - begin)
            tell(
                EpochFinished(
                    run=run, epoch=epoch, epochs=epochs, train_loss=train_loss, test_accuracy=test_accuracy, **state
                )
            )

        with isolated(run.seed, self.settings.device, self.settings.threads):
            result = train(self._network(run), self.data, run, self.settings, on_epoch)
        return {
            "key": self.keys[run],
            **run._asdict(),
            "model": self.recipe.name,
            "data": self.data.name,
            "train_samples": len(self.data.x_train),
            "test_samples": len(self.data.x_test),
            "classes": len(self.data.classes),
            "epochs": epochs,
            "learning_rate": self.settings.rate(run.batch_size),
            **result,
            "seconds": time.perf_counter() - begin,
            "started": started.isoformat(timespec="seconds"),
            "versions": versions(),
        }


def _state(progress: Progress, run: Run | None = None, part: float = 0.0, seconds: float = 0.0) -> dict[str, Any]:
    return {
        "done": progress.done,
        "total": progress.total,
        "work_done": progress.share(run, part),
        "seconds_left": progress.seconds_left(run, part, seconds),
    }
