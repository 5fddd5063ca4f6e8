"""One training run, from the initial weights to its measurements."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

from torch import Tensor

from ..contestants.models import Network
from ..data.training_data import TrainingData
from ..metric import Metric
from ..settings import Run, Settings
from .choices import Choices
from .measure import SIGNAL_BATCH, finite, layer_signal, step_memory
from .trainer import Trainer

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
    """The fields of a run's outcome in the order of a row; those that a diverged run lacks stay None."""
    field = metric.field
    judged = (field, f"{field}_train_mode", "train_eval_gap", f"train_{metric.name}")
    return ("status", "message", *judged, "test_interval", "metrics", "test_loss", "curve")


def run_epochs(trainer: Trainer, epochs: int, on_epoch: EpochReport) -> dict[str, Any]:
    """Train until the last epoch or until a loss is not finite; returns the `outcome_fields` known after training.

    A diverged run is credited with the metric of a model that has learned nothing.
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
            what = "loss" if train_loss is None or not math.isfinite(loss) else metric.spoken
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
