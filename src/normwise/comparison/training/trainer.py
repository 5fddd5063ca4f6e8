"""A network with its optimizer and schedule: the steps and epochs of one run, and its evaluations."""

from __future__ import annotations

import time
from contextlib import suppress
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from ...optim import AdaptiveGradientClipping, param_groups
from ...signal.protection import random_numbers_kept
from ..contestants.bank import BANK, make_banks, remembering
from ..contestants.models import Network
from ..contestants.normalizer_free import NORMALIZER_FREE, UNIT_CLIP
from ..contestants.renorm import RENORM, fit_schedules
from ..contestants.strategy_names import RECALIBRATION_BATCH
from ..data.training_data import Batch, TrainingData
from ..settings import CLIP_NORM, Run, Settings
from .choices import Choices
from .measure import evaluate, evaluate_in_training
from .stepping import are_alike, clip_gradients


class Trainer:
    """A network, its optimizer and the schedule of one run."""

    def __init__(
        self,
        network: Network,
        data: TrainingData,
        run: Run,
        settings: Settings,
        choices: Choices = Choices(),  # noqa: B008
    ) -> None:
        self.network, self.model, self.data, self.run = network, network.module, data, run
        self.treatment = network.treatment
        self.metric, self.choices, self.device = settings.judged, choices, settings.device
        self.objective = data.objective
        self.total_steps = settings.epochs * data.steps(run.batch_size)
        if run.norm == RENORM:
            fit_schedules(self.model, self.total_steps)
        self.parameters = [p for p in self.model.parameters() if p.requires_grad]
        groups = parameter_groups(network, settings.weight_decay)
        self.optimizer = choices.make_optimizer(groups, settings.rate(run.batch_size), settings.device)
        self.schedule = choices.make_schedule(self.optimizer, self.total_steps)
        self.scaler = choices.make_scaler(settings.device)
        self.clip = clip_gradients if are_alike(self.parameters) else nn.utils.clip_grad_norm_
        if run.norm == NORMALIZER_FREE:
            self.optimizer = AdaptiveGradientClipping(self.optimizer, self.model, UNIT_CLIP)
        self.banked = data.groups is not None and run.norm == BANK
        if data.groups is not None and self.banked:
            make_banks(self.model, data.groups)
        self.on_accelerator = torch.device(settings.device).type != "cpu"
        self.timed: list[float] = []
        self.done = 0
        #: Half the 95 % interval of the metric on the held-out samples, if it is not known from their number.
        self.interval: float | None = None

    @cached_property
    def first_batch(self) -> tuple[Tensor, Tensor]:
        """One mini-batch, for measurements outside the training."""
        return self.data.first(self.run.batch_size)[:2]

    def step(self, x: Tensor, y: Tensor) -> Tensor:
        """Forward, backward and update; returns the loss."""
        self.optimizer.zero_grad()
        with self.choices.autocast(self.device):
            loss = self.objective.loss(self.model(x), y)
        if self.scaler is None:
            loss.backward()
            self.clip(self.parameters, CLIP_NORM)
            self.optimizer.step()
        else:
            self.scaler.scale(loss).backward()
            self.scaler.unscale_(self.optimizer)
            self.clip(self.parameters, CLIP_NORM)
            self.scaler.step(self.optimizer)
            self.scaler.update()
        return loss.detach()

    def epoch(self, number: int) -> float:
        """One pass through the training split; returns the mean loss."""
        total, steps = torch.zeros((), device=self.device), 0
        self.model.train()
        for batch in self.data.epoch(self.run.batch_size, self.run.seed, number):
            if self.treatment is not None:
                self.treatment.advance(self.done / self.total_steps)
            x, y = self._augmented(batch)
            with remembering(self.model, batch.group if self.banked else None):
                total += self.step(x, y)
            if self.schedule is not None:
                self.schedule.step()
            self.done += 1
            steps += 1
        return float(total) / steps

    def end(self) -> None:
        """Do the last step of the contestant's strategy, between training and the last evaluation."""
        if self.treatment is None:
            return
        size = min(RECALIBRATION_BATCH, self.data.train_samples)
        with suppress(ValueError):  # values that are not finite, which the evaluation then reports
            self.treatment.end(batch.x for batch in self.data.epoch(size, 0, 0))

    def on_training_split(self) -> dict[str, float]:
        """The metrics and the loss in evaluation mode."""
        return self._evaluated("train")

    def on_held_out_split(self) -> dict[str, float]:
        """The metrics and the loss in evaluation mode."""
        return self._evaluated("test")

    def in_training_mode(self) -> dict[str, float]:
        """The metrics on the held-out split with the normalizers in training mode, at the run's batch size."""
        batches = self.data.full_batches(self.run.batch_size)
        with self.choices.autocast(self.device):
            sums = evaluate_in_training(self.network, self.objective, batches)
        return self.objective.values(sums.sum(0))

    def _evaluated(self, split: str) -> dict[str, float]:
        with self.choices.autocast(self.device):
            sums = evaluate(self.model, self.objective, self.data.in_order(split, by_group=self.banked))
        if split == "test" and self.objective.needs_interval:
            self.interval = self.objective.interval(sums, self.metric.name)
        return self.objective.values(sums.sum(0))

    def _augmented(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The batch after the user's augmentation, with random numbers that are the same for every normalizer."""
        if self.choices.augment is None:
            return batch.x, batch.y
        with random_numbers_kept({torch.device(self.device)}, self.run.seed * 1_000_003 + self.done):
            return self.choices.augment(batch.x, batch.y)

    def timed_step(self, x: Tensor, y: Tensor) -> Tensor:
        """A step whose seconds are added to `timed`."""
        self._wait()
        start = time.perf_counter()
        loss = self.step(x, y)
        self._wait()
        self.timed.append(time.perf_counter() - start)
        return loss

    def _wait(self) -> None:
        if self.on_accelerator:
            torch.accelerator.synchronize(self.device)


def parameter_groups(network: Network, weight_decay: float) -> list[dict[str, Any]]:
    """Two groups: weights with weight decay; biases, gains and the parameters of normalizers without."""
    modules = dict(network.module.named_modules())
    return param_groups(network.module, weight_decay, no_decay=[modules[site] for site in network.sites])
