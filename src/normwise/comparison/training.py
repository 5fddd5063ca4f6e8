"""One training run, from the initial weights to its measurements."""

from __future__ import annotations

import copy
import math
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..optim import AdaptiveGradientClipping, param_groups
from .data import Data
from .measure import SIGNAL_BATCH, evaluate, finite, layer_signal, step_memory, train_mode_accuracy
from .models import Network
from .normalizer_free import NORMALIZER_FREE, UNIT_CLIP
from .renorm import RENORM, fit_schedules
from .settings import CLIP_NORM, MOMENTUM, WARM_UP, Run, Settings

# The fields of a run's outcome in the order of a row; what a diverged run lacks stays None.
OUTCOME = (
    *("status", "message", "test_accuracy", "test_accuracy_train_mode", "train_eval_gap", "train_accuracy"),
    *("test_loss", "curve"),
)
GPU_TIMED_STEPS = range(5, 105)

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
        in_training = train_mode_accuracy(network, data.x_test, data.y_test, run.batch_size)
        outcome |= {
            "test_accuracy_train_mode": in_training,
            "train_eval_gap": in_training - outcome["test_accuracy"],
            "train_accuracy": evaluate(network.module, data.x_train, data.y_train)[0],
        }
    end = layer_signal(network, fixed)
    return {
        **outcome,
        "step_ms": 1e3 * statistics.median(trainer.timed) if trainer.timed else None,
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
        accuracy, test_loss = evaluate(trainer.model, data.x_test, data.y_test)
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
        self.model, self.data, self.run = network.module, data, run
        self.steps_per_epoch = len(data.x_train) // run.batch_size
        self.total_steps = self.steps_per_epoch * settings.epochs
        if run.norm == RENORM:
            fit_schedules(self.model, self.total_steps)
        self.peak_rate = settings.rate(run.batch_size)
        self.parameters = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer: torch.optim.Optimizer = torch.optim.SGD(
            parameter_groups(network, settings.weight_decay),
            lr=self.peak_rate,
            momentum=MOMENTUM,
            nesterov=True,
            fused=torch.device(settings.device).type in ("cpu", "cuda"),
        )
        if run.norm == NORMALIZER_FREE:
            self.optimizer = AdaptiveGradientClipping(self.optimizer, self.model, UNIT_CLIP)
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
        nn.utils.clip_grad_norm_(self.parameters, CLIP_NORM)
        self.optimizer.step()
        return loss.detach()

    def epoch(self, number: int) -> float:
        """One pass in the order of (seed, epoch), without the last incomplete batch; returns the mean loss."""
        x, y, size = self.data.x_train, self.data.y_train, self.run.batch_size
        order = data_order(len(x), self.run.seed, number).to(x.device)
        total = torch.zeros((), device=x.device)
        self.model.train()
        for i in range(self.steps_per_epoch):
            rate = self.peak_rate * schedule(self.done, self.total_steps)
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            index = order[i * size : (i + 1) * size]
            total += (self.timed_step if self._is_timed() else self.step)(x[index], y[index])
            self.done += 1
        return float(total) / self.steps_per_epoch

    def _is_timed(self) -> bool:
        # Waiting for a GPU slows training: only some steps, after those that warm it up, are timed there.
        return not self.on_accelerator or self.done in GPU_TIMED_STEPS

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


def data_order(samples: int, seed: int, epoch: int) -> Tensor:
    """The permutation of an epoch: the same for every normalizer."""
    return torch.randperm(samples, generator=torch.Generator().manual_seed(seed * 1_000_003 + epoch))


def parameter_groups(network: Network, weight_decay: float) -> list[dict[str, Any]]:
    """Weights with weight decay; biases, gains and what normalizers own without."""
    modules = dict(network.module.named_modules())
    return param_groups(network.module, weight_decay, no_decay=[modules[site] for site in network.sites])
