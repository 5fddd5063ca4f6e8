"""The sweep: every normalizer at every batch size for every seed."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from datetime import datetime, timezone
from functools import partial
from typing import Any

import torch

from ..layers import Norm
from . import renorm
from .batches import steps_of_epoch
from .data import Data, fingerprint, scales_apart
from .events import EpochFinished, Event, RateTried, RunFinished, RunSkipped, RunStarted, SweepStarted
from .groups import small_groups
from .isolation import isolated
from .machine import machine, versions
from .models import Network, Recipe
from .progress import Progress
from .settings import InputError, Run, Settings, digest
from .storage import Store
from .timing import side_by_side
from .training import Trainer, chance, train
from .trial import who_can_run
from .tuning import Try, best_rate, try_rate, validation_part

Listener = Callable[[Event], None]
Row = dict[str, Any]

TIMED_STEPS = 10
TIMING_SECONDS = 1.0


class Sweep:
    """Runs of one model on one data set; building it checks everything that could stop a run.

    `norms` are the contestants that can run, `left_out` says of the others, for the reader, why they cannot.
    """

    def __init__(self, settings: Settings, norms: dict[str, Norm], data: Data, recipe: Recipe) -> None:
        self.recipe = recipe
        largest = max(settings.batch_sizes)
        if largest > len(data.x_train):
            raise InputError(
                f"Batch size {largest} is larger than the training split of {data.name} ({len(data.x_train)} "
                f"samples); write a batch size of at most {len(data.x_train)}."
            )
        self.data = data.to(settings.device)
        self.validation = validation_part(self.data, largest) if settings.lrs else None
        self.settings, self.norms = settings, norms
        entrants = who_can_run(settings, norms, recipe, data, lambda run: self._steps(run, most=1))
        self.norms, self.missing, self.left_out = entrants
        self.settings = replace(settings, norms=tuple(self.norms))
        self.rates: dict[tuple[str, int], float] = {}
        self.runs = self._plan()
        first = {run.batch_size: run for run in reversed(self.runs)}
        self.cost = {size: self._cost(first[size]) for size in settings.batch_sizes if size in first}

    def run(self, on_event: Listener | None, store: Store | None) -> list[Row]:
        """Do the runs that `store` does not hold yet; returns the rows of all runs in the order of the plan."""
        tell: Listener = on_event or (lambda _: None)
        models = {name: self.recipe.fingerprint(norm) for name, norm in self.norms.items()}
        if self.validation is not None:
            self.rates = self._choose_rates(self.validation, models, tell, store)
        data = self.data.fingerprint
        keys = {run: _key(self._settings_of(run), data, models[run.norm], run) for run in self.runs}
        known = store.rows() if store else {}
        rows = {run: known[key] for run, key in keys.items() if key in known}
        progress = Progress(self.runs, self.cost, rows)
        about = self.about()
        if store:
            store.write_settings(about | {"keys": list(keys.values())})
        tell(SweepStarted(out=store.folder if store else None, about=about, **_state(progress)))
        for run, row in rows.items():
            tell(RunSkipped(run=run, row=row, **_state(progress)))
        for (seed, size), group in itertools.groupby(self.runs, key=lambda run: (run.seed, run.batch_size)):
            pending = [run for run in group if run not in rows]
            step_ms = self._step_times([run.norm for run in pending], size, seed)
            for run in pending:
                tell(RunStarted(run=run, **_state(progress)))
                rows[run] = {"key": keys[run], **self._run(run, progress, tell), "step_ms": step_ms.get(run.norm)}
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
                "groups": list(data.groups.names) if data.groups else [],
            },
            "protocol": self.settings.protocol(),
            "left_out": list(self.left_out),
            "notes": self._notes(),
            "missing": sorted(map(list, self.missing)),
            "rates": {str(size): self.settings.rate(size) for size in self.settings.batch_sizes},
            "chosen_rates": [[norm, size, rate] for (norm, size), rate in self.rates.items()],
            "machine": machine(self.settings.device),
            "versions": versions(),
        }

    def _notes(self) -> list[str]:
        """What is worth knowing of the data, in sentences."""
        notes = (scales_apart(self.data), small_groups(self.data.groups, self.settings.batch_sizes))
        return [note for note in notes if note]

    def _plan(self) -> list[Run]:
        # A seed at a time, large batches (the short runs) first, all normalizers of a batch size together:
        # whenever the sweep is stopped, what is finished can be compared.
        sizes = sorted(self.settings.batch_sizes, reverse=True)
        grid = itertools.product(self.settings.seeds, sizes, self.settings.norms)
        return [Run(norm, size, seed) for seed, size, norm in grid if (norm, size) not in self.missing]

    def _settings_of(self, run: Run) -> Settings:
        chosen = self.rates.get((run.norm, run.batch_size), self.settings.learning_rate)
        return replace(self.settings, learning_rate=chosen)

    def _choose_rates(
        self, part: Data, models: Mapping[str, str], tell: Listener, store: Store | None
    ) -> dict[tuple[str, int], float]:
        """The learning rate of each contestant at each batch size; what `store` has tried is not tried again."""
        first = [run for run in self.runs if run.seed == self.settings.seeds[0]]
        grid = [(run, rate) for run in first for rate in self.settings.lrs]
        known = store.tries() if store else {}
        data = fingerprint(part)
        found: dict[tuple[str, int], list[Try]] = {}
        begin = time.perf_counter()
        for done, (run, rate) in enumerate(grid, start=1):
            settings = replace(self.settings, learning_rate=rate)
            key = _key(settings, data, models[run.norm], run)
            if key in known:
                tried = Try(**known[key])
            else:
                tried = try_rate(partial(self._trainer, run, settings, part), run, settings)
                if store:
                    store.append_try({"key": key, **tried._asdict()})
            found.setdefault((run.norm, run.batch_size), []).append(tried)
            left = (time.perf_counter() - begin) / done * (len(grid) - done)
            tell(RateTried(tried=tried, done=done, total=len(grid), work_done=done / len(grid), seconds_left=left))
        return {cell: best_rate(tries) for cell, tries in found.items()}

    def _network(self, run: Run) -> Network:
        network = self.recipe.build(self.norms[run.norm], run.seed)
        return network._replace(module=network.module.to(self.settings.device))

    def _trainer(self, run: Run, settings: Settings, data: Data) -> Trainer:
        return Trainer(self._network(run), data, run, settings)

    def _cost(self, run: Run) -> float:
        """Seconds that a run takes, by its first steps."""
        groups = self.data.groups and self.data.groups.train
        steps = steps_of_epoch(len(self.data.x_train), groups, run.batch_size) * self.settings.epochs
        try:
            return steps * min(self._steps(run, most=TIMED_STEPS))
        except torch.OutOfMemoryError as error:
            raise InputError(
                f"A training step at batch size {run.batch_size} does not fit into the memory of "
                f"{self.settings.device}; write smaller batch sizes."
            ) from error

    def _steps(self, run: Run, most: int) -> list[float]:
        """Seconds of the first training steps of a network that is thrown away, fewer where they are slow."""
        with isolated(run.seed, self.settings.device, self.settings.threads):
            trainer = self._trainer(run, self.settings, self.data)
            while len(trainer.timed) < most and sum(trainer.timed) < TIMING_SECONDS:
                trainer.timed_step(*trainer.first_batch())
        return trainer.timed

    def _step_times(self, norms: Sequence[str], batch_size: int, seed: int) -> dict[str, float]:
        """Milliseconds of a step of each, side by side; the networks are thrown away."""
        runs = [Run(norm, batch_size, seed) for norm in norms]
        with isolated(seed, self.settings.device, self.settings.threads):
            return side_by_side({run.norm: self._trainer(run, self.settings, self.data) for run in runs})

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

        settings = self._settings_of(run)
        with isolated(run.seed, settings.device, settings.threads):
            result = train(self._network(run), self.data, run, settings, on_epoch)
        return {
            **run._asdict(),
            "model": self.recipe.name,
            "data": self.data.name,
            "train_samples": len(self.data.x_train),
            "test_samples": len(self.data.x_test),
            "classes": len(self.data.classes),
            "chance_accuracy": chance(self.data),
            "batches_by": settings.batches_by,
            "epochs": epochs,
            "learning_rate": settings.rate(run.batch_size),
            **result,
            "seconds": time.perf_counter() - begin,
            "started": started.isoformat(timespec="seconds"),
            "versions": versions(),
        }


def _key(settings: Settings, data: str, model: str, run: Run) -> str:
    """Of all that the result of a run depends on; `data` and `model` are fingerprints."""
    own = [renorm.PROTOCOL] if run.norm == renorm.RENORM else []
    return digest([settings.identity(), data, versions(), model, run, *own])


def _state(progress: Progress, run: Run | None = None, part: float = 0.0, seconds: float = 0.0) -> dict[str, Any]:
    return {
        "done": progress.done,
        "total": progress.total,
        "work_done": progress.share(run, part),
        "seconds_left": progress.seconds_left(run, part, seconds),
    }
