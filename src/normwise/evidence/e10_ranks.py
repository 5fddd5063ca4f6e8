"""E10: which normalizer is the most accurate at an ordinary batch size?"""

from __future__ import annotations

import statistics
from functools import lru_cache

import torch
from torch import nn

from ..comparison import TrainingRun
from ..comparison.data.in_memory import Data
from ..comparison.data.splits import split_and_standardize
from ..nets import resnet
from .charts import bars
from .classifying import Task, accuracy, fit, perceptron
from .digits import digits, flat
from .experiment import DOES_NOT_HOLD, HOLDS, UNDECIDED, Experiment, Results, Verdict
from .photographs import weather

NORMS = {"BatchNorm": "batch", "LayerNorm": "layer", "GroupNorm": "group:4", "InstanceNorm": "instance", "none": "none"}
BATCH = "BatchNorm"
SIZE, RATE, WIDTH, DEPTH = 32, 0.1, 32, 3
HELD_OUT = 0.5
WINE, CANCER, FLAT, IMAGES, SCENES = "wine", "breast cancer", "digits, flat", "digits, ResNet-8", "scenes, ResNet-8"
IRIS = "iris"
TABLES, PICTURES = (WINE, CANCER, FLAT), (IMAGES, SCENES)
TASKS = (*TABLES, *PICTURES)
# A row of features has no positions, so a pool of InstanceNorm would have a single value.
CASES = tuple(f"{norm}: {task}" for task in TASKS for norm in NORMS if norm != "InstanceNorm" or task in PICTURES)
PASSES = {WINE: 6, CANCER: 3, FLAT: 2, IMAGES: 1, SCENES: 1}


@lru_cache(maxsize=len(TASKS))
def task_of(name: str) -> Task:
    """The samples of a task; every second piece of the photographs."""
    if name == SCENES:
        scenes = weather(by_weather=False)
        return scenes._replace(x=scenes.x[::2], y=scenes.y[::2])
    data = digits() if name in (FLAT, IMAGES) else table(name)
    shape = flat if name in TABLES else torch.Tensor.contiguous
    return Task(shape(data.x_train), data.y_train, shape(data.x_test), data.y_test)


def table(name: str) -> Data:
    """A table of scikit-learn's; half of its rows are held out."""
    from sklearn import datasets

    load = {WINE: datasets.load_wine, CANCER: datasets.load_breast_cancer, IRIS: datasets.load_iris}[name]
    rows, labels = load(return_X_y=True)
    x, y = torch.from_numpy(rows).float(), torch.from_numpy(labels).long()
    return split_and_standardize(name, x, y, tuple(map(str, y.unique().tolist())), HELD_OUT)


def measure(run: TrainingRun) -> dict[str, float]:
    """Accuracy on held-out samples after training."""
    norm, _, name = run.name.partition(": ")
    task = task_of(name)
    net: nn.Module = (
        perceptron(NORMS[norm], task.x.shape[1], WIDTH, DEPTH, task.classes)
        if name in TABLES
        else resnet(8, NORMS[norm], in_channels=task.x.shape[1], num_classes=task.classes, width=8)
    )
    fit(net, task.x, task.y, size=SIZE, epochs=run.epochs * PASSES[name], rate=RATE, seed=run.seed)
    return {"accuracy": accuracy(net.eval(), task.x_test, task.y_test)}


def judge(results: Results) -> Verdict:
    places = {task: ranks(results, task) for task in TASKS}
    mean = {norm: statistics.fmean([p[norm] for p in places.values() if norm in p]) for norm in NORMS}
    beaten = [task for task in TASKS if _beaten(results, task)]
    first = [task for task, place in places.items() if place[BATCH] == 1]
    said = ", ".join(f"{norm} {place:.1f}" for norm, place in sorted(mean.items(), key=lambda item: item[1]))
    scores = "; ".join(
        f"{task}: " + ", ".join(f"{n} {100 * results.mean(f'{n}: {task}'):.1f}" for n in places[task]) for task in TASKS
    )
    sentence = (
        f"Mean rank over {len(TASKS)} tasks: {said}. BatchNorm is first in {len(first)}, and beaten at 95 % confidence "
        f"in {len(beaten)}. Accuracy, %: {scores}."
    )
    best = mean[BATCH] == min(mean.values())
    if best and 2 * len(first) > len(TASKS):
        return Verdict(HOLDS, sentence)
    return Verdict(DOES_NOT_HOLD if len(beaten) >= len(first) else UNDECIDED, sentence)


def ranks(results: Results, task: str) -> dict[str, int]:
    """The place of each normalizer by mean accuracy, from 1; equal ones share the better place."""
    means = {norm: results.mean(f"{norm}: {task}") for norm in NORMS if f"{norm}: {task}" in CASES}
    return {norm: 1 + sum(other > value for other in means.values()) for norm, value in means.items()}


def _beaten(results: Results, task: str) -> bool:
    """Whether another normalizer is ahead of BatchNorm at 95 % confidence."""
    others = [f"{norm}: {task}" for norm in NORMS if norm != BATCH and f"{norm}: {task}" in CASES]
    return any(results.interval(other, f"{BATCH}: {task}")[0] > 0 for other in others)


def picture(results: Results) -> str:
    values = {case: results.shown(case, scale=100) for case in CASES}
    return bars(f"Who is the most accurate at batch size {SIZE}?", "held-out accuracy, %", values, group=": ")


EXPERIMENT = Experiment(
    number="E10",
    claim="At ordinary batch sizes BatchNorm is usually the most accurate",
    claim_ja="基本的には一番高い精度を出すのは Batch Normalization である",
    said_in=("001",),
    protocol=f"Two tables, digits as rows and as pictures, and pieces of two photographs in four kinds of weather are "
    f"learnt in mini-batches of {SIZE} by a fully connected net of {DEPTH} hidden layers or a ResNet-8, with each "
    "normalizer that the data allow; the normalizers are ranked in each task by mean accuracy.",
    rule="Holds if BatchNorm has the best mean rank and is first in more than half of the tasks; does not hold here if "
    "it is beaten at 95 % confidence (Student's t, seed by seed) in as many tasks as it is first in; otherwise "
    "undecided.",
    cases=CASES,
    measure=measure,
    judge=judge,
    picture=picture,
    epochs=12,
    quick_epochs=3,
)
