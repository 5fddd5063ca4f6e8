"""E11: operations, time and accuracy of residual nets without normalizers, with BatchNorm, and EfficientNets."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import nn

from ..comparison import TrainingRun
from ..layers import BatchNorm2d
from ..nets import count_macs, count_parameters, nf_regnet, nf_resnet, resnet
from ..nets.efficientnet import efficientnet
from ..weights import bake
from .charts import bars
from .classifying import accuracy, fit
from .digits import digits
from .experiment import DOES_NOT_HOLD, HOLDS, UNDECIDED, Experiment, Results, Verdict

BN, NF, REGNET, EFFICIENT = "BN-ResNet-50", "NF-ResNet-50", "NF-RegNet-B0", "EfficientNet-B0"
SIDE, ROUNDS, SIZE, RATE = 224, 3, 32, 0.1
PYTORCHS_MOMENTUM = 0.1
CLOSE, FEWER = 0.01, 0.5


def small_efficientnet(classes: int, channels: int, width: float) -> nn.Module:
    """EfficientNet-B0 for pictures of 8×8 pixels, few classes and runs of some hundred steps.

    Two settings of the authors would leave it at chance here, so they are PyTorch's defaults: their BatchNorm averages
    over a hundred steps, so that in evaluation the initial statistics dominate; and their classifier starts at
    ±1/√classes, for 10 classes ten times as large as for 1000.
    """
    net = efficientnet("b0", classes, channels, stem="small", width=width, stochastic_depth=0.0)
    net.classifier.reset_parameters()
    for module in net.modules():
        if isinstance(module, BatchNorm2d):
            module.momentum = PYTORCHS_MOMENTUM
    return net


class Family(NamedTuple):
    """The net of the articles' size, and one of the family for 8×8 digits."""

    large: Callable[[], nn.Module]
    small: Callable[[], nn.Module]


FAMILIES = {
    BN: Family(
        lambda: resnet(50, preactivation=True, in_channels=3, num_classes=1000),
        lambda: resnet(8, preactivation=True, in_channels=1),
    ),
    NF: Family(lambda: nf_resnet(50), lambda: nf_resnet(8, 10, in_channels=1, skip_gain=1.0)),
    REGNET: Family(lambda: nf_regnet("b0"), lambda: nf_regnet("b0", 10, 1, stem="small", skip_gain=1.0)),
    EFFICIENT: Family(lambda: efficientnet("b0"), lambda: small_efficientnet(10, 1, 0.5)),
}


def measure(run: TrainingRun) -> dict[str, float]:
    """Counted parameters and multiply-accumulate operations of one 224×224 picture, processor time beside that of
    BN-ResNet-50 in the same run, and the small net's operations and held-out accuracy."""
    family = FAMILIES[run.name]
    large, small = family.large().eval(), family.small()
    macs, parameters = count_macs(large, (1, 3, SIDE, SIDE)), count_parameters(large)
    bake(large)  # as deployed: weight standardization is needed for training only
    data = digits()
    losses = fit(small, data.x_train, data.y_train, size=SIZE, epochs=run.epochs, rate=RATE, seed=run.seed)
    return {
        "accuracy": accuracy(small.eval(), data.x_test, data.y_test),
        "last loss": losses[-1],
        "small MMACs": count_macs(small, (1, *data.sample_shape)) / 1e6,
        "GMACs": macs / 1e9,
        "parameters": float(parameters),
        "time": _beside(large, FAMILIES[BN].large().eval()),
    }


@torch.no_grad()
def _beside(net: nn.Module, other: nn.Module) -> float:
    """The processor time for one picture, as a ratio to another net's; the least of some rounds, in turns."""
    x, taken = torch.randn(1, 3, SIDE, SIDE), {net: [], other: []}
    for _ in range(ROUNDS):
        for each in taken:
            start = time.process_time()
            each(x)
            taken[each].append(time.process_time() - start)
    return min(taken[net][1:]) / min(taken[other][1:])


def judge(results: Results) -> Verdict:
    macs, taken, small = (
        {case: results.mean(case, name=name) for case in FAMILIES} for name in ("GMACs", "time", "small MMACs")
    )
    scores = {case: results.mean(case) for case in FAMILIES}
    said = "; ".join(
        f"{case} {macs[case]:.2f} GMACs in {taken[case]:.2f} times the time of BN-ResNet-50, its small net "
        f"{100 * scores[case]:.1f} % with {small[case]:.2f} MMACs"
        for case in FAMILIES
    )
    sentence = f"{said}."
    cheap = abs(macs[REGNET] / macs[EFFICIENT] - 1) <= 0.25 and macs[REGNET] <= FEWER * macs[BN]
    if not cheap:
        return Verdict(DOES_NOT_HOLD, sentence)
    level = scores[REGNET] >= scores[EFFICIENT] - CLOSE and scores[REGNET] >= scores[BN] - CLOSE
    return Verdict(HOLDS if level and small[REGNET] <= small[EFFICIENT] else UNDECIDED, sentence)


def picture(results: Results) -> str:
    values = {}
    for case in FAMILIES:
        values[f"operations: {case}"] = (results.mean(case, name="GMACs") / results.mean(BN, name="GMACs"), 0.0)
        values[f"time: {case}"] = results.shown(case, name="time")
    title = "One picture: a tenth of the operations is not a tenth of the time"
    return bars(title, "BN-ResNet-50: 1", values, group=": ")


EXPERIMENT = Experiment(
    number="E11",
    claim="At the same number of operations normalizer-free nets match EfficientNets, far ahead of common ResNets",
    claim_ja="NF-Net は FLOPs の観点で EfficientNet と同等の性能であり、一般的な ResNet を大幅に上回る",
    said_in=("003",),
    protocol=f"Parameters and multiply-accumulate operations are counted exactly for one {SIDE}×{SIDE} picture, and "
    "processor time is measured in turns with BN-ResNet-50, standardized weights baked (normwise.bake). ImageNet is "
    "out of reach here, so accuracy is that of small nets of the same families on the 8×8 digits.",
    rule=f"Holds if NF-RegNet-B0 has EfficientNet-B0's operations to a quarter and at most {FEWER:g} times the "
    f"ResNet's, and its small net is within {100 * CLOSE:.0f} point of the small EfficientNet and ResNet with no more "
    "operations than the EfficientNet; undecided if only the counts are so.",
    cases=tuple(FAMILIES),
    measure=measure,
    judge=judge,
    picture=picture,
    epochs=6,
    quick_seeds=2,
    quick_epochs=3,
)
