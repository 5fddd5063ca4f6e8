"""E10: which normalizer is the most accurate at an ordinary batch size?"""

from __future__ import annotations

import statistics
from functools import lru_cache

import torch
from torch import Tensor, nn

from ..comparison import TrainingRun
from ..comparison.data.in_memory import Data
from ..comparison.data.splits import split_and_standardize
from ..nets import resnet
from .charts import bars
from .classifying import accuracy, fit, perceptron
from .digits import digits, flat
from .experiment import DOES_NOT_HOLD, HOLDS, UNDECIDED, Experiment, Results, Verdict
from .photographs import weather

NORMS = {"BatchNorm": "batch", "LayerNorm": "layer", "GroupNorm": "group:4", "InstanceNorm": "instance", "none": "none"}
BATCH = "BatchNorm"
SIZE, RATE, WIDTH, DEPTH = 32, 0.1, 32, 3
HELD_OUT = 0.5
WINE, CANCER, FLAT, IMAGES, SCENES = "wine", "breast cancer", "digits, flat", "digits, ResNet-8", "scenes, ResNet-8"
TABLES, PICTURES = (WINE, CANCER, FLAT), (IMAGES, SCENES)
TASKS = (*TABLES, *PICTURES)
# A row of features has no positions, so InstanceNorm of one has nothing to normalize by.
CASES = tuple(f"{norm}: {task}" for task in TASKS for norm in NORMS if norm != "InstanceNorm" or task in PICTURES)
PASSES = {WINE: 6, CANCER: 3, FLAT: 2, IMAGES: 1, SCENES: 1}


@lru_cache(maxsize=len(TASKS))
def task_of(name: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Samples and labels to train on, and held-out ones."""
    if name == SCENES:
        x, y, x_test, y_test = weather(by_weather=False)
        return x[::2], y[::2], x_test, y_test
    data = digits() if name in (FLAT, IMAGES) else _table(name)
    shape = flat if name in TABLES else torch.Tensor.contiguous
    return shape(data.x_train), data.y_train, shape(data.x_test), data.y_test


def _table(name: str) -> Data:
    from sklearn import datasets

    load = datasets.load_wine if name == WINE else datasets.load_breast_cancer
    rows, labels = load(return_X_y=True)
    x, y = torch.from_numpy(rows).float(), torch.from_numpy(labels).long()
    return split_and_standardize(name, x, y, tuple(map(str, y.unique().tolist())), HELD_OUT)


def measure(run: TrainingRun) -> dict[str, float]:
    """Accuracy on held-out samples after training."""
    norm, _, name = run.name.partition(": ")
    x, y, x_test, y_test = task_of(name)
    classes = int(y.max()) + 1
    net: nn.Module = (
        perceptron(NORMS[norm], x.shape[1], WIDTH, DEPTH, classes)
        if name in TABLES
        else resnet(8, NORMS[norm], in_channels=x.shape[1], num_classes=classes, width=8)
    )
    fit(net, x, y, size=SIZE, epochs=run.epochs * PASSES[name], rate=RATE, seed=run.seed)
    return {"accuracy": accuracy(net.eval(), x_test, y_test)}


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
    """Whether another normalizer is ahead of BatchNorm beyond doubt."""
    others = [f"{norm}: {task}" for norm in NORMS if norm != BATCH and f"{norm}: {task}" in CASES]
    return any(results.interval(other, f"{BATCH}: {task}")[0] > 0 for other in others)


def picture(results: Results) -> str:
    values = {case: (100 * results.mean(case), 100 * results.spread(case)) for case in CASES}
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
    metric="accuracy",
    direction="max",
    judge=judge,
    picture=picture,
    seeds=5,
    epochs=12,
    quick_seeds=3,
    quick_epochs=3,
)
