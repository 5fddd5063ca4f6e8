"""One training run, from the initial weights to its measurements."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..optim import AdaptiveGradientClipping, param_groups
from .bank import BANK, make_banks, remembering
from .batches import batches_of_epoch, data_order, steps_of_epoch
from .data import Data
from .measure import SIGNAL_BATCH, evaluate, evaluate_by_bank, finite, layer_signal, step_memory, train_mode_accuracy
from .models import Network
from .normalizer_free import NORMALIZER_FREE, UNIT_CLIP
from .renorm import RENORM, fit_schedules
from .settings import CLIP_NORM, MOMENTUM, WARM_UP, Run, Settings
from .stepping import LeanSGD, are_alike, clip_gradients
from .strategy_names import RECALIBRATION_BATCH

# The fields of a run's outcome in the order of a row; what a diverged run lacks stays None.
OUTCOME = (
    *("status", "message", "test_accuracy", "test_accuracy_train_mode", "train_eval_gap", "train_accuracy"),
    *("test_loss", "curve"),
)

# Called after each epoch with its number, the training loss and the metric, each None where it is not known.
EpochReport = Callable[[int, float | None, float | None], None]


def train(network: Network, data: Data, run: Run, settings: Settings, on_epoch: EpochReport) -> dict[str, Any]:
    """Train `network`, which is on the device as `data` are, and measure it: the result fields of a row.

    `on_epoch(epoch, train_loss, test_accuracy)` is called after each epoch, counted from 1.
    """
    memory, memory_kind = memory_of_step(network, data, run, settings)
    fixed = data.x_train[data_order(len(data.x_train), 0, 0)[:SIGNAL_BATCH].to(data.x_train.device)]
    start = layer_signal(network, fixed)
    trainer = Trainer(network, data, run, settings)
    outcome = run_epochs(trainer, settings.epochs, on_epoch)
    if outcome["status"] == "finished":
        groups = data.groups and data.groups.test
        in_training = train_mode_accuracy(network, data.x_test, data.y_test, run.batch_size, groups)
        outcome |= {
            "test_accuracy_train_mode": in_training,
            "train_eval_gap": in_training - outcome["test_accuracy"],
            "train_accuracy": trainer.on_training_split()[0],
        }
    end = layer_signal(network, fixed)
    return {
        **outcome,
        "peak_memory_bytes": memory,
        "memory_kind": memory_kind,
        "parameters": sum(p.numel() for p in network.module.parameters()),
        "layers": [{"name": site, "start": start[site], "end": end[site]} for site in network.sites if site in start],
    }


def run_epochs(trainer: Trainer, epochs: int, on_epoch: EpochReport) -> dict[str, Any]:
    """Train until the last epoch or until a loss is not finite; the fields of `OUTCOME` that training gives."""
    data, curve = trainer.data, []
    outcome: dict[str, Any] = dict.fromkeys(OUTCOME)
    for epoch in range(1, epochs + 1):
        train_loss = finite(trainer.epoch(epoch))
        if epoch == epochs and train_loss is not None:
            trainer.end()
        accuracy, test_loss = trainer.on_held_out_split()
        diverged = train_loss is None or not math.isfinite(test_loss)
        accuracy = chance(data) if diverged else accuracy
        curve.append({"epoch": epoch, "train_loss": train_loss, "test_accuracy": accuracy})
        outcome |= {"status": "finished", "message": "", "test_accuracy": accuracy, "test_loss": finite(test_loss)}
        on_epoch(epoch, train_loss, accuracy)
        if diverged:
            message = f"The loss is not finite after epoch {epoch} of {epochs}."
            outcome |= {"status": "diverged", "message": message, "test_loss": None}
            break
    return outcome | {"curve": curve}


def chance(data: Data) -> float:
    """Held-out accuracy of always answering the most frequent training class."""
    return float((data.y_test == data.y_train.bincount().argmax()).float().mean())


def memory_of_step(network: Network, data: Data, run: Run, settings: Settings) -> tuple[int, str]:
    """Peak memory of a training step, measured on a copy of the network after its first step."""
    twin = Trainer(Network(copy.deepcopy(network.module), network.sites), data, run, settings)
    x, y = twin.first_batch()
    twin.model.train()
    twin.step(x, y)
    twin.optimizer.zero_grad()
    state = [value for held in twin.optimizer.state.values() for value in held.values() if isinstance(value, Tensor)]
    kept = [*twin.model.parameters(), *twin.model.buffers(), *state]
    held = sum(tensor.numel() * tensor.element_size() for tensor in kept)
    return step_memory(lambda: twin.step(x, y), held, settings.device)


class Trainer:
    """A network, its optimizer and the schedule of one run."""

    def __init__(self, network: Network, data: Data, run: Run, settings: Settings) -> None:
        self.model, self.data, self.run, self.treatment = network.module, data, run, network.treatment
        self.groups = data.groups and data.groups.train
        self.total_steps = settings.epochs * steps_of_epoch(len(data.x_train), self.groups, run.batch_size)
        if run.norm == RENORM:
            fit_schedules(self.model, self.total_steps)
        self.peak_rate = settings.rate(run.batch_size)
        self.parameters = [p for p in self.model.parameters() if p.requires_grad]
        alike = are_alike(self.parameters)
        kind = LeanSGD if alike else torch.optim.SGD
        self.clip = clip_gradients if alike else nn.utils.clip_grad_norm_
        self.optimizer: torch.optim.Optimizer = kind(
            parameter_groups(network, settings.weight_decay),
            lr=self.peak_rate,
            momentum=MOMENTUM,
            nesterov=True,
            fused=torch.device(settings.device).type in ("cpu", "cuda"),
        )
        if run.norm == NORMALIZER_FREE:
            self.optimizer = AdaptiveGradientClipping(self.optimizer, self.model, UNIT_CLIP)
        self.banked = data.groups if run.norm == BANK else None
        if self.banked is not None:
            make_banks(self.model, self.banked)
        self.on_accelerator = data.x_train.device.type != "cpu"
        self.timed: list[float] = []
        self.done = 0

    def first_batch(self) -> tuple[Tensor, Tensor]:
        """As many samples as a step takes, for what is measured beside the training."""
        size = self.run.batch_size
        return self.data.x_train[:size], self.data.y_train[:size]

    def step(self, x: Tensor, y: Tensor) -> Tensor:
        """Forward, backward and update; returns the loss."""
        self.optimizer.zero_grad()
        loss = F.cross_entropy(self.model(x), y)
        loss.backward()
        self.clip(self.parameters, CLIP_NORM)
        self.optimizer.step()
        return loss.detach()

    def epoch(self, number: int) -> float:
        """One pass through `batches_of_epoch`; returns the mean loss."""
        x, y = self.data.x_train, self.data.y_train
        batches = batches_of_epoch(len(x), self.groups, self.run.batch_size, self.run.seed, number)
        total = torch.zeros((), device=x.device)
        self.model.train()
        for batch in batches:
            if self.treatment is not None:
                self.treatment.advance(self.done / self.total_steps)
            rate = self.peak_rate * schedule(self.done, self.total_steps)
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            index = batch.to(x.device)
            with remembering(self.model, int(self.banked.train[index[0]]) if self.banked else None):
                total += self.step(x.index_select(0, index), y.index_select(0, index))
            self.done += 1
        return float(total) / len(batches)

    def end(self) -> None:
        """What the contestant's strategy does between training and the last evaluation."""
        if self.treatment is None:
            return
        x = self.data.x_train
        order = data_order(len(x), 0, 0).to(x.device)
        with suppress(ValueError):  # values that are not finite, as the evaluation then says
            self.treatment.end([x[part] for part in order.split(RECALIBRATION_BATCH)])

    def on_training_split(self) -> tuple[float, float]:
        """Accuracy and loss in evaluation mode."""
        return self._evaluated(self.data.x_train, self.data.y_train, self.banked and self.banked.train)

    def on_held_out_split(self) -> tuple[float, float]:
        """Accuracy and loss in evaluation mode."""
        return self._evaluated(self.data.x_test, self.data.y_test, self.banked and self.banked.test)

    def _evaluated(self, x: Tensor, y: Tensor, groups: Tensor | None) -> tuple[float, float]:
        return evaluate(self.model, x, y) if groups is None else evaluate_by_bank(self.model, x, y, groups)

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
            torch.accelerator.synchronize(self.data.x_train.device)


def schedule(step: int, total: int) -> float:
    """Share of the peak learning rate: linear warm-up over the first tenth, then a cosine to zero."""
    at = (step + 0.5) / total
    return at / WARM_UP if at < WARM_UP else 0.5 * (1 + math.cos(math.pi * (at - WARM_UP) / (1 - WARM_UP)))


def parameter_groups(network: Network, weight_decay: float) -> list[dict[str, Any]]:
    """Weights with weight decay; biases, gains and what normalizers own without."""
    modules = dict(network.module.named_modules())
    return param_groups(network.module, weight_decay, no_decay=[modules[site] for site in network.sites])
