"""The comparison with our own loop: one classifier, trained with every normalizer."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import torch

from ..layers import Norm
from . import renorm
from .batches import steps_of_epoch
from .data import Data, fingerprint, scales_apart
from .events import RateTried
from .experiment import Listener, Row
from .groups import small_groups
from .isolation import isolated
from .machine import versions
from .metric import ACCURACY
from .models import Network, Recipe
from .settings import InputError, Run, Settings, digest
from .storage import Store
from .timing import side_by_side
from .training import EpochReport, Trainer, chance, train
from .trial import who_can_run
from .tuning import Try, best_rate, try_rate, validation_part

TIMED_STEPS = 10
TIMING_SECONDS = 1.0


class Classification:
    """Runs of one model on one data set (an `Experiment`)."""

    metric = ACCURACY

    def __init__(self, settings: Settings, norms: Mapping[str, Norm], data: Data, recipe: Recipe) -> None:
        self.recipe = recipe
        largest = max(settings.batch_sizes)
        if largest > len(data.x_train):
            raise InputError(
                f"Batch size {largest} is larger than the training split of {data.name} ({len(data.x_train)} "
                f"samples); write a batch size of at most {len(data.x_train)}."
            )
        self.data = data.to(settings.device)
        self.validation = validation_part(self.data, largest) if settings.lrs else None
        self.settings, self.norms = settings, dict(norms)
        entrants = who_can_run(settings, norms, recipe, data, lambda run: self._steps(run, most=1))
        self.norms, self.missing, self.left_out = entrants
        self.settings = replace(settings, norms=tuple(self.norms))
        self.models = {name: recipe.fingerprint(norm) for name, norm in self.norms.items()}
        self.rates: dict[tuple[str, int], float] = {}

    def prepare(self, runs: Sequence[Run], tell: Listener, store: Store | None) -> None:
        """Choose the learning rate of each contestant at each batch size, where there is a choice."""
        if self.validation is not None:
            first = [run for run in runs if run.seed == self.settings.seeds[0]]
            self.rates = self._choose_rates(first, self.validation, tell, store)

    def keys(self, runs: Sequence[Run]) -> dict[Run, str]:
        data = self.data.fingerprint
        return {run: _key(self._settings_of(run), data, self.models[run.norm], run) for run in runs}

    def costs(self, runs: Sequence[Run]) -> dict[int, float]:
        """Seconds that a run at each batch size takes, by the first steps of the first."""
        first = {run.batch_size: run for run in reversed(runs)}
        return {size: self._cost(run) for size, run in first.items()}

    def step_times(self, runs: Sequence[Run]) -> dict[str, float | None]:
        if not runs:
            return {}
        with isolated(runs[0].seed, self.settings.device, self.settings.threads):
            found = side_by_side({run.norm: self._trainer(run, self.settings, self.data) for run in runs})
        return {run.norm: found.get(run.norm) for run in runs}

    def run(self, run: Run, on_epoch: EpochReport) -> Row:
        settings = self._settings_of(run)
        with isolated(run.seed, settings.device, settings.threads):
            result = train(self._network(run), self.data, run, settings, on_epoch)
        return {
            "model": self.recipe.name,
            "data": self.data.name,
            "train_samples": len(self.data.x_train),
            "test_samples": len(self.data.x_test),
            "classes": len(self.data.classes),
            "chance_accuracy": chance(self.data),
            "batches_by": settings.batches_by,
            "epochs": settings.epochs,
            "learning_rate": settings.rate(run.batch_size),
            **result,
        }

    def lost(self, message: str) -> Row:
        raise RuntimeError(f"{self.recipe.name}: {message} Write smaller batch sizes, or fewer jobs.")

    def about(self) -> dict[str, Any]:
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
            "protocol": self.settings.protocol(converted=self.recipe.normalizer_free is None),
            "notes": self._notes(),
            "rates": {str(size): self.settings.rate(size) for size in self.settings.batch_sizes},
            "chosen_rates": [[norm, size, rate] for (norm, size), rate in self.rates.items()],
        }

    def _notes(self) -> list[str]:
        """What is worth knowing of the model and the data, in sentences."""
        notes = (scales_apart(self.data), small_groups(self.data.groups, self.settings.batch_sizes))
        return [*self.recipe.notes, *(note for note in notes if note)]

    def _settings_of(self, run: Run) -> Settings:
        chosen = self.rates.get((run.norm, run.batch_size), self.settings.learning_rate)
        return replace(self.settings, learning_rate=chosen)

    def _choose_rates(
        self, runs: Sequence[Run], part: Data, tell: Listener, store: Store | None
    ) -> dict[tuple[str, int], float]:
        """The learning rate of each contestant at each batch size; what `store` has tried is not tried again."""
        grid = [(run, rate) for run in runs for rate in self.settings.lrs]
        known = store.tries() if store else {}
        data = fingerprint(part)
        found: dict[tuple[str, int], list[Try]] = {}
        begin = time.perf_counter()
        for done, (run, rate) in enumerate(grid, start=1):
            settings = replace(self.settings, learning_rate=rate)
            key = _key(settings, data, self.models[run.norm], run)
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


def _key(settings: Settings, data: str, model: str, run: Run) -> str:
    """Of all that the result of a run depends on; `data` and `model` are fingerprints."""
    own = [renorm.PROTOCOL] if run.norm == renorm.RENORM else []
    return digest([settings.identity(), data, versions(), model, run, *own])
