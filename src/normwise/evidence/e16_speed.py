"""E16: steps to a loss, and learning rates that train."""

from __future__ import annotations

import math

import torch
from torch import nn

from ..comparison import TrainingRun
from .charts import lines
from .classifying import perceptron
from .digits import digits, flat
from .experiment import DOES_NOT_HOLD, HOLDS, HOLDS_WHEN, Experiment, Results, Verdict
from .steps import take_step

NORMS = {"none": "none", "BatchNorm": "batch", "LayerNorm": "layer"}
RATES = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
DEPTH, WIDTH, SIZE = 8, 64, 32
REACHED, STEPS_OF_EPOCH = 0.3, 18
FASTER, LARGER = 0.5, 3.0
SMOOTH = 0.9


def case_of(norm: str, rate: float) -> str:
    return f"{norm}, rate {rate:g}"


def measure(run: TrainingRun) -> dict[str, float]:
    """The steps until the running mean of the training loss is below `REACHED`; all steps if it never is."""
    norm, _, rate = run.name.partition(", rate ")
    data = digits()
    x, y = flat(data.x_train), data.y_train
    net = perceptron(NORMS[norm], WIDTH, WIDTH, DEPTH, 10)
    optimizer = torch.optim.SGD(net.parameters(), float(rate), momentum=0.0)
    total, level, steps = run.epochs * STEPS_OF_EPOCH, math.log(10), 0
    while steps < total and level >= REACHED and math.isfinite(level):
        index = torch.randint(len(x), (SIZE,))
        loss = nn.functional.cross_entropy(net(x[index]), y[index])
        take_step(optimizer, loss)
        level = SMOOTH * level + (1 - SMOOTH) * float(loss.detach())
        steps += 1
    trained = level < REACHED
    return {"steps": float(steps if trained else total), "trained": float(trained)}


def judge(results: Results) -> Verdict:
    best = {norm: min(results.mean(case_of(norm, rate)) for rate in RATES) for norm in NORMS}
    largest = {norm: max((rate for rate in RATES if _trains(results, norm, rate)), default=0.0) for norm in NORMS}
    said = ", ".join(
        f"{norm} {best[norm]:.0f} steps and up to a rate of {largest[norm]:g}"
        if largest[norm]
        else f"{norm} not within {best[norm]:.0f} steps at any rate in every seed"
        for norm in NORMS
    )
    sentence = f"To a training loss of {REACHED:g}, each at its own best rate: {said}."
    faster = best["BatchNorm"] <= FASTER * best["none"]
    bears = largest["BatchNorm"] >= LARGER * largest["none"] * 0.99
    if faster and bears:
        return Verdict(HOLDS, sentence)
    if faster or bears:
        return Verdict(HOLDS_WHEN, f"it is asked of the {'speed' if faster else 'learning rate'} alone. {sentence}")
    return Verdict(DOES_NOT_HOLD, sentence)


def _trains(results: Results, norm: str, rate: float) -> bool:
    """Whether the training reaches the loss in every seed."""
    return min(results.values(case_of(norm, rate), name="trained"), default=0.0) == 1.0


def picture(results: Results) -> str:
    series = {
        norm: [
            (rate, *results.shown(case_of(norm, rate)))
            for rate in RATES
            if results.mean(case_of(norm, rate), name="trained") > 0
        ]
        for norm in NORMS
    }
    nowhere = [norm.replace("none", "no normalizer") for norm, line in series.items() if not line]
    title = f"{DEPTH} layers: how fast is it learnt at each learning rate?"
    if nowhere:
        title += f" ({', '.join(nowhere)}: at none)"
    return lines(title, "learning rate", f"steps to a training loss of {REACHED:g}, less is better", series, log_y=True)


EXPERIMENT = Experiment(
    number="E16",
    claim="BatchNorm speeds training up and bears larger learning rates",
    claim_ja="Batch Normalization は学習を加速し、大きな学習率でも安定させる",
    said_in=("001", "003"),
    protocol=f"A fully connected net of {DEPTH} hidden layers with PyTorch's initial weights learns the digits by "
    f"plain SGD in mini-batches of {SIZE} at each of {len(RATES)} learning rates; counted are the steps until the "
    f"running mean of the training loss is below {REACHED:g}.",
    rule=f"Holds if at its own best rate BatchNorm takes at most {FASTER:g} times the steps of no normalizer at its "
    f"own, and the largest rate at which every seed gets there is at least {LARGER:g} times as large; holds when asked "
    "of one of them, if only that is so.",
    cases=tuple(case_of(norm, rate) for norm in NORMS for rate in RATES),
    measure=measure,
    metric="steps",
    direction="min",
    judge=judge,
    picture=picture,
    epochs=60,
    quick_seeds=2,
    quick_epochs=20,
)
