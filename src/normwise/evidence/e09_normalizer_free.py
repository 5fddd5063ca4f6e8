"""E9: residual nets without normalizers compared with those with BatchNorm."""

from __future__ import annotations

import torch
from torch import nn

from ..comparison import TrainingRun
from ..nets import NormalizerFreeNet, StochasticDepth, nf_resnet, resnet
from ..optim import AdaptiveGradientClipping
from .charts import lines
from .classifying import MOMENTUM, accuracy, fit
from .digits import digits
from .experiment import DOES_NOT_HOLD, HOLDS, HOLDS_WHEN, UNDECIDED, Experiment, Results, Verdict

FREE, BATCH, REGULARIZED = "NF-ResNet", "BN-ResNet", ", regularized"
CASES = (FREE, BATCH, FREE + REGULARIZED, BATCH + REGULARIZED)
# Passes over the data for each "epoch" of the experiment: the larger batch has fewer steps in a pass.
PASSES = {4: 1, 32: 4}
SIZES = tuple(PASSES)
DEPTH, WIDTH, RATE_AT_32 = 8, 8, 0.1
DROPOUT, DROPPED = 0.25, 0.1
CLIP = 0.08


def measure(run: TrainingRun) -> dict[str, float]:
    """Accuracy on held-out digits."""
    data = digits()
    rate = RATE_AT_32 * run.batch_size / 32
    net = net_of(run.name, DEPTH, WIDTH)
    fit(
        net,
        data.x_train,
        data.y_train,
        size=run.batch_size,
        epochs=run.epochs * PASSES[run.batch_size],
        rate=rate,
        seed=run.seed,
        optimizer=optimizer_of(net, rate),
    )
    return {"accuracy": accuracy(net.eval(), data.x_test, data.y_test)}


def net_of(case: str, depth: int, width: int) -> nn.Module:
    """One of `CASES` for 8×8 digits."""
    dropout, dropped = (DROPOUT, DROPPED) if case.endswith(REGULARIZED) else (0.0, 0.0)
    if case.startswith(FREE):
        return nf_resnet(
            depth,
            10,
            in_channels=1,
            width=width,
            stem="small",
            skip_gain=1.0,
            dropout=dropout,
            stochastic_depth=dropped,
            padding="symmetric",
        )
    net = resnet(depth, "batch", in_channels=1, preactivation=True, width=width, stem="small")
    net.dropout.p = dropout
    blocks = [block for stage in net.stages for block in stage]  # type: ignore[attr-defined]
    for i, block in enumerate(blocks):
        block.branch = nn.Sequential(block.branch, StochasticDepth(dropped * i / len(blocks)))
    return net


def optimizer_of(net: nn.Module, rate: float) -> torch.optim.Optimizer:
    """SGD, with adaptive gradient clipping for nets without normalizers."""
    sgd = torch.optim.SGD(net.parameters(), rate, momentum=MOMENTUM, nesterov=True)
    return AdaptiveGradientClipping(sgd, net, CLIP) if isinstance(net, NormalizerFreeNet) else sgd


def judge(results: Results) -> Verdict:
    low = {size: results.interval(FREE + REGULARIZED, BATCH + REGULARIZED, size)[0] for size in results.sizes()}
    tiny, ordinary = min(results.sizes()), max(results.sizes())
    mean = {(case, size): results.mean(case, size) for case in CASES for size in results.sizes()}
    said = "; ".join(
        f"at batch size {size} "
        + ", ".join(f"{c} {100 * mean[c, size]:.1f} ± {100 * results.spread(c, size):.1f}" for c in CASES)
        for size in results.sizes()
    )
    sentence = f"Accuracy, %: {said}."
    level = mean[FREE + REGULARIZED, ordinary] >= mean[BATCH + REGULARIZED, ordinary]
    if low[tiny] > 0 and level:
        return Verdict(HOLDS, sentence)
    if low[tiny] > 0:
        return Verdict(HOLDS_WHEN, f"the batch size is {tiny}. {sentence}")
    ahead = mean[FREE + REGULARIZED, tiny] > mean[BATCH + REGULARIZED, tiny]
    return Verdict(UNDECIDED if ahead else DOES_NOT_HOLD, sentence)


def picture(results: Results) -> str:
    series = {case: results.over_sizes(case, scale=100) for case in CASES}
    return lines("Without normalizers against BatchNorm", "batch size", "held-out accuracy, %", series)


RULE = (
    f"Holds if, both regularized, NF-ResNet is ahead at batch size {SIZES[0]} at 95 % confidence (Student's t, seed by "
    f"seed) and not behind on average at {SIZES[1]}; holds when the batch size is {SIZES[0]}, if only the first is so; "
    "undecided if it is ahead on average only."
)

EXPERIMENT = Experiment(
    number="E9",
    claim="Regularized normalizer-free ResNets are at least as accurate as BatchNorm's, and far ahead at tiny batches",
    claim_ja="正則化した NF-ResNet はバッチ正規化ありの ResNet と同等以上で、バッチが小さいと大きく上回る",
    said_in=("003",),
    protocol=f"NF-ResNet-{DEPTH} (branches on from the start, adaptive gradient clipping) and the pre-activation "
    f"ResNet-{DEPTH} with BatchNorm learn the digits at batch sizes {SIZES[0]} and {SIZES[1]}, {PASSES[SIZES[1]]} "
    "times as many passes at the latter, since it has fewer steps in each; without and with dropout of "
    f"{DROPOUT:g} and stochastic depth of {DROPPED:g}. ± is the standard deviation over the seeds, as in the article's "
    "table.",
    rule=RULE,
    cases=CASES,
    measure=measure,
    judge=judge,
    picture=picture,
    sizes=SIZES,
    epochs=4,
    quick_seeds=5,
)
