"""The comparison with our own loop: one model, trained for a task with every normalizer."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import cached_property
from typing import Any

import torch

from ...layers import Norm
from ..contestants import renorm
from ..contestants.models import Network, Recipe
from ..data.in_memory import Data, scales_apart
from ..data.training_data import TrainingData
from ..data.validation import validation_part
from ..events import Try
from ..fingerprints import digest
from ..groups import small_groups
from ..isolation import isolated
from ..machine import versions
from ..settings import InputError, Run, Settings
from ..storage import Store
from ..training.choices import Choices
from ..training.loop import EpochReport, chance_values, run_epochs, train
from ..training.timing import side_by_side
from ..training.trainer import Trainer
from .experiment import Listener, Row
from .protocol import protocol_of
from .trial import runnable
from .tuning import choose_rates

TIMED_STEPS = 10
TIMING_SECONDS = 1.0


class TaskTraining:
    """Runs of one model on one data set (an `Experiment`)."""

    def __init__(
        self,
        settings: Settings,
        norms: Mapping[str, Norm],
        data: TrainingData,
        recipe: Recipe,
        choices: Choices = Choices(),  # noqa: B008
    ) -> None:
        self.recipe, self.metric, self.choices = recipe, settings.judged, choices
        largest = max(settings.batch_sizes)
        if largest > data.train_samples:
            raise InputError(
                f"Batch size {largest} is larger than the training split of {data.name} ({data.train_samples} "
                f"samples); write a batch size of at most {data.train_samples}."
            )
        self.data = data.to(settings.device)
        self.validation = validation_part(self.data, largest) if settings.lrs else None
        self.settings, self.norms = settings, dict(norms)
        if not math.isfinite(self.chance):
            raise InputError(
                f"{data.name}: {self.metric.name} is not defined on the held-out split, whose targets are all the "
                "same; choose another metric."
            )
        entrants = runnable(settings, norms, recipe, data, lambda run: self._steps(run, most=1))
        self.norms, self.missing, self.left_out = entrants
        self.settings = replace(settings, norms=tuple(self.norms))
        self.models = {name: recipe.fingerprint(norm) for name, norm in self.norms.items()}
        self.rates: dict[tuple[str, int], float] = {}

    @cached_property
    def chance(self) -> float:
        """The metric of a model that has learned nothing."""
        with torch.no_grad():
            return chance_values(self.data)[self.metric.name]

    def prepare(self, runs: Sequence[Run], tell: Listener, store: Store | None) -> None:
        """Choose the learning rate of each contestant at each batch size, where there is a choice."""
        part = self.validation
        if part is None:
            return

        self.rates = choose_rates(
            [run for run in runs if run.seed == self.settings.seeds[0]],
            self.settings.lrs,
            self.metric,
            lambda run, rate: _key(self._at(rate), part.fingerprint, self.models[run.norm], run),
            lambda run, rate: self._try(run, rate, part),
            tell,
            store,
        )

    def keys(self, runs: Sequence[Run]) -> dict[Run, str]:
        data = self.data.fingerprint
        return {run: _key(self._settings_of(run), data, self.models[run.norm], run) for run in runs}

    def costs(self, runs: Sequence[Run]) -> dict[int, float]:
        """Estimated seconds of a run at each batch size, from the first steps of the first run."""
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
            result = train(self._network(run), self.data, run, settings, on_epoch, self.choices)
        return {
            "model": self.recipe.name,
            "data": self.data.name,
            "task": settings.task,
            "metric": self.metric.name,
            "direction": self.metric.direction,
            "train_samples": self.data.train_samples,
            "test_samples": self.data.test_samples,
            "classes": len(self.data.classes),
            f"chance_{self.metric.name}": self.chance,
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
                "train_samples": data.train_samples,
                "test_samples": data.test_samples,
                "fingerprint": data.fingerprint,
                "groups": list(data.groups.names) if data.groups else [],
            },
            "protocol": protocol_of(self.settings, converted=self.recipe.normalizer_free is None),
            "loss": data.task_class.loss_in_words,
            "notes": self._notes(),
            "rates": {str(size): self.settings.rate(size) for size in self.settings.batch_sizes},
            "chosen_rates": [[norm, size, rate] for (norm, size), rate in self.rates.items()],
        }

    def _notes(self) -> list[str]:
        """Remarks on the model and the data, in sentences."""
        apart = scales_apart(self.data) if isinstance(self.data, Data) else None
        notes = (apart, small_groups(self.data.groups, self.settings.batch_sizes))
        return [*self.recipe.notes, *(note for note in notes if note)]

    def _settings_of(self, run: Run) -> Settings:
        chosen = self.rates.get((run.norm, run.batch_size), self.settings.learning_rate)
        return self._at(chosen)

    def _at(self, rate: float) -> Settings:
        return replace(self.settings, learning_rate=rate)

    def _try(self, run: Run, rate: float, part: TrainingData) -> Try:
        """Train a contestant at a learning rate on the validation part."""
        settings = self._at(rate)
        with isolated(run.seed, settings.device, settings.threads):
            outcome = run_epochs(self._trainer(run, settings, part), settings.epochs, lambda *_: None)
        diverged = outcome["status"] == "diverged"
        return Try(*run[:2], rate, None if diverged else outcome[self.metric.field], outcome["test_loss"])

    def _network(self, run: Run) -> Network:
        network = self.recipe.build(self.norms[run.norm], run.seed)
        return network._replace(module=network.module.to(self.settings.device))

    def _trainer(self, run: Run, settings: Settings, data: TrainingData) -> Trainer:
        return Trainer(self._network(run), data, run, settings, self.choices)

    def _cost(self, run: Run) -> float:
        """Estimated seconds of a run, from its first steps."""
        steps = self.data.steps(run.batch_size) * self.settings.epochs
        try:
            return steps * min(self._steps(run, most=TIMED_STEPS))
        except torch.OutOfMemoryError as error:
            raise InputError(
                f"A training step at batch size {run.batch_size} does not fit into the memory of "
                f"{self.settings.device}; write smaller batch sizes."
            ) from error

    def _steps(self, run: Run, most: int) -> list[float]:
        """Seconds of the first training steps of a temporary network; fewer steps if they are slow."""
        with isolated(run.seed, self.settings.device, self.settings.threads):
            trainer = self._trainer(run, self.settings, self.data)
            while len(trainer.timed) < most and sum(trainer.timed) < TIMING_SECONDS:
                trainer.timed_step(*trainer.first_batch)
        return trainer.timed


def _key(settings: Settings, data: str, model: str, run: Run) -> str:
    """A hash of everything that determines the result of a run; `data` and `model` are fingerprints."""
    own = [renorm.PROTOCOL] if run.norm == renorm.RENORM else []
    return digest([settings.identity(), data, versions(), model, run, *own])
