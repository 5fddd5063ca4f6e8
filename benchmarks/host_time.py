"""Where the processor time of a training step of our own loop goes, for small nets at small batches.

    OMP_NUM_THREADS=1 python benchmarks/host_time.py

Microseconds by part, medians over steps; "own" is all but the model's forward pass, loss and backward pass.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from itertools import pairwise

import torch

from normwise.comparison.experiments.task_training import TaskTraining
from normwise.comparison.isolation import isolated
from normwise.comparison.request import Request, open_experiment
from normwise.comparison.settings import Run

CASES = (
    ("digits", "batch", 2),
    ("digits", "batch", 16),
    ("digits", "group", 2),
    ("diabetes", "batch", 4),
    ("shapes", "batch", 2),
    ("words", "batch", 8),
    ("text", "token-layer", 2),
)
WARM_UP, STEPS = 30, 200
MODEL = ("forward", "loss", "backward")


def parts_of_steps(data: str, norm: str, size: int) -> dict[str, float]:
    experiment = open_experiment(Request(data=data, norms=[norm], batch_sizes=[size], seeds=1))
    assert isinstance(experiment, TaskTraining)
    run, clock = Run(norm, size, 0), time.process_time
    times: dict[str, list[float]] = {}
    with isolated(0, "cpu", 1):
        trainer = experiment._trainer(run, experiment.settings, experiment.data)
        trainer.model.train()
        batches, total = _endless(trainer), torch.zeros(())
        for _ in range(WARM_UP + STEPS):
            marks = [clock()]
            x, y, _ = next(batches)
            marks.append(clock())
            trainer.optimizer.zero_grad()
            marks.append(clock())
            output = trainer.model(x)
            marks.append(clock())
            loss = trainer.objective.loss(output, y)
            marks.append(clock())
            loss.backward()
            marks.append(clock())
            trainer.clip(trainer.parameters, 1.0)
            marks.append(clock())
            trainer.optimizer.step()
            marks.append(clock())
            trainer.schedule.step()
            total += loss.detach()
            marks.append(clock())
            names = ("loader", "zero", *MODEL, "clip", "update", "rest")
            for name, (begin, end) in zip(names, pairwise(marks), strict=True):
                times.setdefault(name, []).append(end - begin)
    return {name: 1e6 * statistics.median(found[WARM_UP:]) for name, found in times.items()}


def _endless(trainer) -> Iterator:
    epoch = 0
    while True:
        epoch += 1
        yield from trainer.data.epoch(trainer.run.batch_size, 0, epoch)


def main() -> None:
    torch.set_num_threads(1)
    for case in CASES:
        found = parts_of_steps(*case)
        own = sum(value for name, value in found.items() if name not in MODEL)
        parts = ", ".join(f"{name} {value:.0f}" for name, value in found.items())
        print(f"{case[0]}, {case[1]}, batches of {case[2]}: {parts}; own {own:.0f} of {sum(found.values()):.0f} us")


if __name__ == "__main__":
    main()
