"""The sweep: every normalizer at every batch size for every seed."""

from __future__ import annotations

import itertools
import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

from ..layers import Norm
from .data import Data
from .events import EpochFinished, Event, RunFinished, RunSkipped, RunStarted, SweepStarted
from .isolation import isolated
from .machine import machine, versions
from .models import Network, Recipe, first_line
from .progress import Progress
from .references import name_of
from .settings import InputError, Run, Settings, digest, make_settings, named_norms
from .sources import load_data
from .storage import Store
from .training import Trainer, train
from .zoo import ModelLike, open_model

DataLike = str | Callable[[], Any]
Listener = Callable[[Event], None]
Row = dict[str, Any]

EXAMPLES = 2
TIMED_STEPS = 3
SMALL_MAP = 256


def compare(
    model: ModelLike = "resnet8",
    data: DataLike = "digits",
    *,
    norms: Sequence[Norm] = ("batch", "group", "instance", "layer", "none"),
    batch_sizes: Sequence[int] = (2, 8, 64),
    seeds: int | Sequence[int] = 2,
    epochs: int = 6,
    learning_rate: float = 0.6,
    weight_decay: float = 5e-4,
    image_size: int = 32,
    device: str | torch.device | None = None,
    out: str | os.PathLike[str] | None = None,
    on_event: Listener | None = None,
) -> list[Row]:
    """Train one model with each normalizer at each batch size and seed; returns one row per run.

    Every run has the same protocol: SGD with Nesterov momentum, peak learning rate
    `learning_rate · min(1, batch size / 32)`, linear warm-up and cosine, gradients clipped to a global norm of 1,
    `epochs` epochs without the last incomplete batch. For one seed all normalizers share the initial weights (all
    tensors that normalizers do not own, bit for bit) and the order of the data. On the CPU a row is determined by
    its `key` bit for bit, times aside.

    Args:
        model: `resnet8`, `resnet20`, `resnet18` and so on; `timm:NAME`, `torchvision:NAME`, `package.module:function`;
            a function or a module. A function gets `norm`, `in_channels` and `classes` where it has parameters of
            these names. Without `norm` the model's BatchNorm, GroupNorm and InstanceNorm layers are replaced.
        data: `digits`; a folder with one directory per class; an `.npz` file with x_train, y_train, x_test, y_test
            or x, y; `package.module:function` or a function that returns (train, test), each a dataset of tensors or
            a pair (x, y).
        norms: names as in `normwise.layers.NORMALIZERS` (`"group:8"` for 8 groups), classes, or functions
            `channels -> Module`.
        batch_sizes: each at most the size of the training split.
        seeds: how many, or which.
        epochs: passes over the training split, the same for every run.
        learning_rate: peak rate at batch sizes from 32 on.
        weight_decay: for weights; biases and normalizers have none.
        image_size: side to which the images of a folder are resized.
        device: the GPU where there is one, else the CPU.
        out: folder for `results.jsonl` (a line per finished run, at once on disk) and `settings.json`. Runs that
            the folder holds already are not repeated.
        on_event: called with each `Event`.

    A row is a flat JSON dict: what was run (`norm`, `batch_size`, `seed`, ...), `status` ("finished" or
    "diverged"), accuracies from 0 to 1 (`test_accuracy` in evaluation mode; `test_accuracy_train_mode` with the
    normalizers in training mode at the run's batch size; `train_eval_gap`, the second minus the first), `curve`
    by epoch, `step_ms` (median of forward, backward and update), `peak_memory_bytes` (parameters, buffers,
    optimizer state and the peak of what one step allocates), and `layers`: squared channel mean and channel
    variance of the input of each normalization site, at the start and at the end.

    Raises InputError (a ValueError) with what to write instead, before the first run, for everything that cannot
    work. KeyboardInterrupt passes through; the finished runs are in `out`.

    >>> rows = compare(norms=["group", "none"], batch_sizes=[64], seeds=1, epochs=1)
    >>> [(row["norm"], row["status"]) for row in rows]
    [('group', 'finished'), ('none', 'finished')]
    """
    named = named_norms(norms)
    settings = make_settings(
        model=name_of(model),
        data=name_of(data),
        norms=list(named),
        batch_sizes=batch_sizes,
        seeds=seeds,
        epochs=epochs,
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        image_size=image_size,
        device=device,
    )
    with isolated(0, "cpu"):
        loaded = load_data(data, image_size)
    settings = replace(settings, threads=threads_for(loaded.sample_shape))
    recipe = open_model(model, loaded.x_train[:EXAMPLES], len(loaded.classes))
    sweep = Sweep(settings, named, loaded, recipe)
    if out is None:
        return sweep.run(on_event, None)
    with Store(Path(out)) as store:
        return sweep.run(on_event, store)


def threads_for(sample_shape: tuple[int, ...]) -> int:
    """One thread for samples of at most 256 positions, where several cost more than they bring; else torch's.

    >>> threads_for((1, 8, 8)), threads_for((64,))
    (1, 1)
    """
    return 1 if math.prod(sample_shape[1:]) <= SMALL_MAP else torch.get_num_threads()


class Sweep:
    """Runs of one model on one data set; building it checks everything that could stop a run."""

    def __init__(self, settings: Settings, norms: dict[str, Norm], data: Data, recipe: Recipe) -> None:
        self.settings, self.norms, self.recipe = settings, norms, recipe
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
            self._steps(run, count=1)
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
            return steps * min(self._steps(run, count=TIMED_STEPS))
        except torch.OutOfMemoryError as error:
            raise InputError(
                f"A training step at batch size {batch_size} does not fit into the memory of "
                f"{self.settings.device}; write smaller batch sizes."
            ) from error

    def _steps(self, run: Run, count: int) -> list[float]:
        """Seconds of the first training steps of a network that is thrown away."""
        with isolated(run.seed, self.settings.device, self.settings.threads):
            trainer = Trainer(self._network(run), self.data, run, self.settings)
            x, y = self.data.x_train[: run.batch_size], self.data.y_train[: run.batch_size]
            for _ in range(count):
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
