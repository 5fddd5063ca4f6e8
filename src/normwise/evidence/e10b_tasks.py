"""E10b: which normalizer is the most accurate, over more tasks, each at its own best learning rate."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..comparison import TrainingRun
from ..layers import make_norm
from ..nets import resnet
from .charts import bars, stacked
from .classifying import Task, at_best_rate, perceptron
from .digits import digits, flat
from .e10_ranks import CANCER, IRIS, SIZE, WINE, table
from .experiment import DOES_NOT_HOLD, HOLDS, HOLDS_WHEN, UNDECIDED, Experiment, Results, Verdict, more_than_half
from .photographs import weather

NORMS = {"BatchNorm": "batch", "LayerNorm": "layer", "GroupNorm": "group:4", "none": "none"}
BATCH = "BatchNorm"
RATES = (0.03, 0.1, 0.3)
WIDTH, NOISE, CONTRASTS = 32, 1.0, (0.15, 0.4, 1.0)
# The 97.5 % point of Student's range for 4 means and many degrees of freedom, over √2 (Demšar 2006, table 5).
NEMENYI = 2.569


class Kind(NamedTuple):
    """A net for a task: how it is made, and the passes over the data for each epoch of the experiment."""

    make: Callable[[str, Task], nn.Module]
    passes: int


def _dense(depth: int) -> Callable[[str, Task], nn.Module]:
    return lambda norm, task: perceptron(norm, task.x.shape[1], WIDTH, depth, task.classes)


def _residual(norm: str, task: Task) -> nn.Module:
    return resnet(8, norm, in_channels=task.x.shape[1], num_classes=task.classes, width=8)


def _plain(norm: str, task: Task) -> nn.Module:
    parts: list[nn.Module] = []
    for i, stride in enumerate((1, 2, 2)):
        conv = nn.Conv2d(WIDTH // 2 if i else task.x.shape[1], WIDTH // 2, 3, stride, padding=1)
        parts += [conv, make_norm(norm, WIDTH // 2), nn.ReLU()]
    return nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(WIDTH // 2, task.classes))


DIGITS, NOISY, FAINT, SCENES, WEATHER = "digits", "noisy digits", "digits of three contrasts", "scenes", "weather"
DENSE, CONVOLUTIONAL = "fully connected", "convolutional"
KINDS = {
    "3 layers": Kind(_dense(3), 2),
    "8 layers": Kind(_dense(8), 2),
    "ResNet-8": Kind(_residual, 1),
    "3 convolutions": Kind(_plain, 1),
}
PAIRS = {
    DENSE: (
        (WINE, "3 layers"),
        (CANCER, "3 layers"),
        (IRIS, "3 layers"),
        (DIGITS, "3 layers"),
        (DIGITS, "8 layers"),
        (NOISY, "3 layers"),
    ),
    CONVOLUTIONAL: (
        (DIGITS, "ResNet-8"),
        (NOISY, "ResNet-8"),
        (FAINT, "ResNet-8"),
        (DIGITS, "3 convolutions"),
        (SCENES, "ResNet-8"),
        (WEATHER, "3 convolutions"),
    ),
}
TASKS = {f"{data}, {kind}": (data, kind) for pairs in PAIRS.values() for data, kind in pairs}
SMALL = (WINE, CANCER, IRIS)
MORE_PASSES = 4
CASES = tuple(f"{norm}: {task}" for task in TASKS for norm in NORMS)


@lru_cache(maxsize=16)
def task_of(data: str) -> Task:
    """The samples of one of the data sets: rows of a table, or pictures."""
    if data in (SCENES, WEATHER):
        found = weather(by_weather=data == WEATHER)
        return found._replace(x=found.x[::2], y=found.y[::2])
    if data in SMALL:
        rows = table(data)
        return Task(flat(rows.x_train), rows.y_train, flat(rows.x_test), rows.y_test)
    random = torch.Generator().manual_seed(0)
    changes: dict[str, Callable[[Tensor], Tensor]] = {
        DIGITS: lambda x: x,
        NOISY: lambda x: x + NOISE * torch.randn(x.shape, generator=random),
        FAINT: lambda x: x * torch.tensor(CONTRASTS)[torch.randint(3, (len(x), 1, 1, 1), generator=random)],
    }
    known = digits()
    return Task(changes[data](known.x_train), known.y_train, changes[data](known.x_test), known.y_test)


def measure(run: TrainingRun) -> dict[str, float]:
    """Accuracy on held-out samples at the best of `RATES`."""
    norm, _, name = run.name.partition(": ")
    data, kind = TASKS[name]
    task, (make, passes) = task_of(data), KINDS[kind]
    if (data, kind) in PAIRS[DENSE]:
        task = task._replace(x=flat(task.x), x_test=flat(task.x_test))
    epochs = run.epochs * passes * (MORE_PASSES if data in SMALL else 1)
    found, rate = at_best_rate(lambda: make(NORMS[norm], task), task, RATES, size=SIZE, epochs=epochs, seed=run.seed)
    return {"accuracy": found, "rate": rate}


def ranks(results: Results, task: str) -> dict[str, float]:
    """The place of each normalizer by mean accuracy, from 1; equal ones share the mean of their places."""
    means = {norm: results.mean(f"{norm}: {task}") for norm in NORMS}
    values = list(means.values())
    return {norm: 0.5 + sum(v > own for v in values) + sum(v == own for v in values) / 2 for norm, own in means.items()}


def critical_difference(tasks: int) -> float:
    """Mean ranks of 4 over so many tasks that are further apart differ at 95 % confidence: q √(k (k + 1) / (6 N)).

    >>> round(critical_difference(12), 2)
    1.35
    """
    k = len(NORMS)
    return NEMENYI * math.sqrt(k * (k + 1) / (6 * tasks))


def judge(results: Results) -> Verdict:
    places = {task: ranks(results, task) for task in TASKS}
    mean = {norm: statistics.fmean(place[norm] for place in places.values()) for norm in NORMS}
    first = {
        kind: sum(min(places[f"{data}, {net}"].values()) == places[f"{data}, {net}"][BATCH] for data, net in pairs)
        for kind, pairs in PAIRS.items()
    }
    apart = critical_difference(len(TASKS))
    behind = [norm for norm in NORMS if mean[norm] - mean[BATCH] > apart]
    ahead = [norm for norm in NORMS if mean[BATCH] - mean[norm] > apart]
    said = ", ".join(f"{norm} {place:.1f}" for norm, place in sorted(mean.items(), key=lambda item: item[1]))
    total, needed = sum(first.values()), more_than_half(len(TASKS))
    sentence = (
        f"BatchNorm is the most accurate in {total} of {len(TASKS)} tasks ({first[DENSE]} of {len(PAIRS[DENSE])} fully "
        f"connected, {first[CONVOLUTIONAL]} of {len(PAIRS[CONVOLUTIONAL])} convolutional). Mean rank: {said}; beyond "
        f"the critical difference of {apart:.2f} BatchNorm is ahead of {_listed(behind)} and behind {_listed(ahead)}."
    )
    if total >= needed:
        return Verdict(HOLDS, sentence)
    if total <= len(TASKS) - needed or ahead:
        return Verdict(DOES_NOT_HOLD, sentence)
    always = [kind for kind, pairs in PAIRS.items() if first[kind] >= more_than_half(len(pairs))]
    return Verdict(HOLDS_WHEN, f"the net is {always[0]}. {sentence}") if always else Verdict(UNDECIDED, sentence)


def _listed(norms: list[str]) -> str:
    shown = [norm.replace("none", "no normalizer") for norm in norms]
    return ", ".join(shown) or "none of them"


def picture(results: Results) -> str:
    places = {task: ranks(results, task) for task in TASKS}
    ranked = {}
    for norm in NORMS:
        found = [place[norm] for place in places.values()]
        ranked[norm] = (statistics.fmean(found), 0.0)
    axis = (
        f"mean rank over {len(TASKS)} tasks, 1: always the first; apart from {critical_difference(len(TASKS)):.2f} on"
    )
    values = {case: results.shown(case, scale=100) for case in CASES}
    return stacked(
        bars(f"Who is the most accurate at batch size {SIZE}?", axis, ranked),
        bars("Task by task", "held-out accuracy, %", values, group=": "),
    )


EXPERIMENT = Experiment(
    number="E10b",
    claim="At ordinary batch sizes BatchNorm is usually the most accurate: E10's claim over more tasks",
    claim_ja="基本的には一番高い精度を出すのは Batch Normalization である(E10 の主張をより多くのタスクで検証)",
    said_in=("001",),
    protocol=f"{len(TASKS)} tasks, half of them with fully connected and half with convolutional nets, are learnt in "
    f"mini-batches of {SIZE}: three tables, digits plain, noisy and of three contrasts, and pieces of two photographs "
    f"in four kinds of weather. Each normalizer has its own best of the learning rates {', '.join(map(str, RATES))} in "
    "each run, chosen on a quarter of the training samples; InstanceNorm, which rows of features do not allow, is "
    "left out.",
    rule="Holds if BatchNorm has the best mean accuracy in so many tasks that more than half is beyond doubt (sign "
    f"test at 95 %: {more_than_half(len(TASKS))} of {len(TASKS)}); does not hold here if it has it in so few that less "
    "than half is beyond doubt, or another's mean rank is better by more than Nemenyi's critical difference; holds "
    "when the net is of one kind, if more than half is beyond doubt there; otherwise undecided.",
    cases=CASES,
    measure=measure,
    judge=judge,
    picture=picture,
    epochs=4,
    quick_seeds=2,
    quick_epochs=2,
)
