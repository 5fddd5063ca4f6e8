"""One training run, from the initial weights to its measurements."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
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
from ..metric import Metric
from ..settings import CLIP_NORM, Run, Settings
from .choices import Choices
from .measure import SIGNAL_BATCH, evaluate, evaluate_in_training, finite, layer_signal, step_memory
from .stepping import are_alike, clip_gradients

# Called after each epoch with its number, the training loss and the metric, each None where it is not known.
EpochReport = Callable[[int, float | None, float | None], None]


def train(
    network: Network,
    data: TrainingData,
    run: Run,
    settings: Settings,
    on_epoch: EpochReport,
    choices: Choices = Choices(),  # noqa: B008
) -> dict[str, Any]:
    """Train `network`, which is on the device as `data` are, and measure it: the result fields of a row.

    `on_epoch(epoch, train_loss, metric)` is called after each epoch, counted from 1.
    """
    metric = settings.judged
    memory, memory_kind = memory_of_step(network, data, run, settings, choices)
    fixed = data.fixed(SIGNAL_BATCH)
    start = layer_signal(network, fixed)
    trainer = Trainer(network, data, run, settings, choices)
    outcome = run_epochs(trainer, settings.epochs, on_epoch)
    if outcome["status"] == "finished":
        in_training = finite(trainer.in_training_mode()[metric.name])
        outcome |= {
            f"{metric.field}_train_mode": in_training,
            "train_eval_gap": None if in_training is None else in_training - outcome[metric.field],
            f"train_{metric.name}": finite(trainer.on_training_split()[metric.name]),
        }
    end = layer_signal(network, fixed)
    return {
        **outcome,
        "peak_memory_bytes": memory,
        "memory_kind": memory_kind,
        "parameters": sum(p.numel() for p in network.module.parameters()),
        "layers": [{"name": site, "start": start[site], "end": end[site]} for site in network.sites if site in start],
    }


def outcome_fields(metric: Metric) -> tuple[str, ...]:
    """The fields of a run's outcome in the order of a row; what a diverged run lacks stays None."""
    field = metric.field
    judged = (field, f"{field}_train_mode", "train_eval_gap", f"train_{metric.name}")
    return ("status", "message", *judged, "test_interval", "metrics", "test_loss", "curve")


def run_epochs(trainer: Trainer, epochs: int, on_epoch: EpochReport) -> dict[str, Any]:
    """Train until the last epoch or until a loss is not finite; the fields of `outcome_fields` that training gives.

    A diverged run is credited with what a model gets that has learned nothing.
    """
    metric, curve = trainer.metric, []
    outcome: dict[str, Any] = dict.fromkeys(outcome_fields(metric))
    for epoch in range(1, epochs + 1):
        train_loss = finite(trainer.epoch(epoch))
        if epoch == epochs and train_loss is not None:
            trainer.end()
        values = trainer.on_held_out_split()
        loss = values.pop("loss")
        diverged = train_loss is None or not math.isfinite(loss) or not math.isfinite(values[metric.name])
        values = chance_values(trainer.data) if diverged else values
        value = values[metric.name]
        curve.append({"epoch": epoch, "train_loss": train_loss, metric.field: value})
        outcome |= {"status": "finished", "message": "", metric.field: value}
        outcome |= {"metrics": {name: finite(number) for name, number in values.items()}}
        outcome["test_loss"] = None if diverged else loss
        outcome["test_interval"] = None if diverged else trainer.interval
        on_epoch(epoch, train_loss, value)
        if diverged:
            what = "loss" if train_loss is None or not math.isfinite(loss) else metric.name
            outcome |= {"status": "diverged", "message": f"The {what} is not finite after epoch {epoch} of {epochs}."}
            break
    return outcome | {"curve": curve}


def chance_values(data: TrainingData) -> dict[str, float]:
    """The held-out metrics of the best answer that does not look at the samples."""
    objective = data.objective
    total = sum(objective.sums(objective.constant(y), y).sum(0).cpu() for _, y, _ in data.in_order("test"))
    assert isinstance(total, Tensor)
    values = objective.values(total)
    return {name: value for name, value in values.items() if name != "loss"}


def memory_of_step(
    network: Network, data: TrainingData, run: Run, settings: Settings, choices: Choices
) -> tuple[int, str]:
    """Peak memory of a training step, measured on a copy of the network after its first step."""
    twin = Trainer(Network(copy.deepcopy(network.module), network.sites), data, run, settings, choices)
    x, y = twin.first_batch
    twin.model.train()
    twin.step(x, y)
    twin.optimizer.zero_grad()
    state = [value for held in twin.optimizer.state.values() for value in held.values() if isinstance(value, Tensor)]
    kept = [*twin.model.parameters(), *twin.model.buffers(), *state]
    held = sum(tensor.numel() * tensor.element_size() for tensor in kept)
    return step_memory(lambda: twin.step(x, y), held, settings.device)


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
        #: Half the 95 % interval of the metric on the held-out samples, where it is not known from their number.
        self.interval: float | None = None

    @cached_property
    def first_batch(self) -> tuple[Tensor, Tensor]:
        """As many samples as a step takes, for what is measured beside the training."""
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
        """What the contestant's strategy does between training and the last evaluation."""
        if self.treatment is None:
            return
        size = min(RECALIBRATION_BATCH, self.data.train_samples)
        with suppress(ValueError):  # values that are not finite, as the evaluation then says
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
        """The batch as the user's function changes it, with random numbers that are the same for every normalizer."""
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
    """Weights with weight decay; biases, gains and what normalizers own without."""
    modules = dict(network.module.named_modules())
    return param_groups(network.module, weight_decay, no_decay=[modules[site] for site in network.sites])
