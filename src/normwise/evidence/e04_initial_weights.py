"""E4: how much the initial weights matter, with and without normalization."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn

from ..comparison import TrainingRun
from ..layers import make_norm
from ..weights import scaled_weight_standardization
from .charts import lines
from .digits import digits, flat
from .experiment import DOES_NOT_HOLD, HOLDS, HOLDS_WHEN, UNDECIDED, Experiment, Results, Verdict

SCALES = (0.1, 0.3, 1.0, 3.0, 10.0)
# Weights of ten times the size are a different problem: if a normalizer makes the output independent of the scale, the
# gradient is inversely proportional to it, and the effective learning rate to its square.
MODERATE = SCALES[:-1]
NORMS = ("none", "batch", "layer", "nf")
LABELS = {"none": "no normalizer", "batch": "BatchNorm", "layer": "LayerNorm", "nf": "scaled weights"}
DEPTH, WIDTH, BATCH, RATE = 10, 64, 32, 0.05
NARROW, WIDE = 0.10, 0.30


def case_of(norm: str, scale: float) -> str:
    return f"{norm}, weights × {scale:g}"


def measure(run: TrainingRun) -> dict[str, float]:
    """Test accuracy of a deep fully connected net after a few epochs, and the spread of its last layer before them."""
    norm, _, scale = run.name.partition(", weights × ")
    net = _net(norm, float(scale))
    data = digits()
    x, y, x_test, y_test = flat(data.x_train), data.y_train, flat(data.x_test), data.y_test
    with torch.no_grad():
        spread = float(net[:-1](x[:256]).std())
    optimizer = torch.optim.SGD(net.parameters(), RATE, momentum=0.9)
    for _ in range(run.epochs):
        for index in torch.randperm(len(x)).split(BATCH)[: len(x) // BATCH]:
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(x[index]), y[index]).backward()
            nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimizer.step()
    with torch.no_grad():
        right = net.eval()(x_test).argmax(1) == y_test
    return {"accuracy": float(right.float().mean()), "spread": min(spread, 1e30) if math.isfinite(spread) else 1e30}


def _net(norm: str, scale: float) -> nn.Sequential:
    layers: list[nn.Module] = []
    for _ in range(DEPTH):
        linear = nn.Linear(WIDTH, WIDTH)
        nn.init.normal_(linear.weight, std=scale * math.sqrt(2 / WIDTH))
        nn.init.zeros_(linear.bias)
        if norm == "nf":
            scaled_weight_standardization(linear)
        layers += [linear, nn.Identity() if norm == "nf" else make_norm(norm, WIDTH, rank=1), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(WIDTH, 10))


def judge(results: Results) -> Verdict:
    ranges = {norm: _range(results, norm, MODERATE) for norm in NORMS}
    all_scales = _range(results, "batch", SCALES)
    said = ", ".join(f"{norm} {100 * lost:.0f}" for norm, lost in ranges.items())
    sentence = (
        f"Points of accuracy between the best and the worst scale from × {MODERATE[0]:g} to × {MODERATE[-1]:g}: "
        f"{said}; "
        f"with BatchNorm {100 * all_scales:.0f} if × {SCALES[-1]:g} is counted, too."
    )
    if ranges["none"] < WIDE:
        return Verdict(UNDECIDED, f"{sentence} Without a normalizer, too, the scale matters little here.")
    if all_scales <= NARROW:
        return Verdict(HOLDS, sentence)
    if ranges["batch"] <= NARROW:
        return Verdict(HOLDS_WHEN, f"the weights are not far too large. {sentence}")
    return Verdict(DOES_NOT_HOLD, sentence)


def _range(results: Results, norm: str, scales: Sequence[float]) -> float:
    means = [results.mean(case_of(norm, scale)) for scale in scales]
    return max(means) - min(means)


def picture(results: Results) -> str:
    series = {
        LABELS[norm]: [(scale, *results.shown(case_of(norm, scale), scale=100)) for scale in SCALES] for norm in NORMS
    }
    title = f"{DEPTH} layers: who learns from initial weights that are too small or too large?"
    return lines(title, "scale of the initial weights (1: He's)", "held-out accuracy, %", series)


EXPERIMENT = Experiment(
    number="E4",
    claim="Training depends on the initial weights, and BatchNorm makes it insensitive to them",
    claim_ja="学習は重みの初期値に左右され、Batch Normalization は初期値に神経質にならなくてよくする",
    said_in=("001",),
    protocol=f"A fully connected net of {DEPTH} layers with ReLU learns the digits; its weights start at He's standard "
    f"deviation times {', '.join(f'{scale:g}' for scale in SCALES)}, with BatchNorm, LayerNorm, scaled weight "
    "standardization, or nothing.",
    rule=f"Holds if the scale costs at most {100 * NARROW:.0f} points under BatchNorm and at least {100 * WIDE:.0f} "
    f"without a normalizer; holds when the weights are not far too large, if that is so without × {SCALES[-1]:g}; "
    "undecided if it matters little to both.",
    cases=tuple(case_of(norm, scale) for norm in NORMS for scale in SCALES),
    measure=measure,
    judge=judge,
    picture=picture,
    epochs=20,
    quick_seeds=2,
    quick_epochs=8,
)
