"""E8: mean shift and variance by the order of BatchNorm and ReLU, and without normalizers."""

from __future__ import annotations

import math

import torch

from ..comparison import TrainingRun
from ..signal import trace
from ..signal.paper import paper_networks
from .charts import lines
from .experiment import DOES_NOT_HOLD, HOLDS, Experiment, Results, Verdict

DEPTH, SHAPE = 26, (8, 3, 64, 64)
BN, AFTER, NONE, NF, PLAIN_NF = tuple(paper_networks(8))
CASES = (BN, AFTER, NONE, NF, PLAIN_NF)
BLOCKS = 8
GROWS, SHIFTED = 100.0, 10.0


def measure(run: TrainingRun) -> dict[str, float]:
    """Of each residual block at initialization: squared channel mean, channel variance, variance of its branch."""
    net = paper_networks(DEPTH)[run.name]()
    found = trace(net, torch.randn(SHAPE), skip_gain=1.0)
    metrics = {}
    for i, (block, branch) in enumerate(zip(found.blocks, found.branches, strict=True), start=1):
        metrics |= {f"mean² {i}": block.squared_mean, f"variance {i}": block.variance, f"branch {i}": branch.variance}
    return metrics | {"last variance": found.blocks[-1].variance}


def judge(results: Results) -> Verdict:
    variance = {case: results.mean(case) for case in CASES}
    shift = {case: results.mean(case, name=f"mean² {BLOCKS}") / variance[case] for case in CASES}
    sentence = (
        f"Variance at the last block: {variance[NONE]:.2g} without a normalizer, {variance[BN]:.2g} with BatchNorm, "
        f"{variance[NF]:.2g} in the normalizer-free net. Squared mean over variance there: {shift[BN]:.2g} with "
        "BatchNorm "
        f"before the ReLU, {shift[AFTER]:.2g} after it, {shift[PLAIN_NF]:.2g} normalizer-free without scaled weight "
        f"standardization, {shift[NF]:.2g} with it."
    )
    grows = variance[NONE] >= GROWS * max(variance[BN], variance[NF])
    gone = all(shift[case] * SHIFTED <= max(shift[BN], shift[PLAIN_NF]) for case in (AFTER, NF))
    return Verdict(HOLDS if grows and gone else DOES_NOT_HOLD, sentence)


def picture(results: Results) -> str:
    series = {
        case: [(i, max(1e-12, results.mean(case, name=f"variance {i}"))) for i in range(1, BLOCKS + 1)]
        for case in CASES
    }
    series = {case: line for case, line in series.items() if all(math.isfinite(y) for _, y in line)}
    return lines(
        "The variance over the blocks at initialization", "block", "channel variance", series, log_x=False, log_y=True
    )


EXPERIMENT = Experiment(
    number="E8",
    claim="Signal propagation plots show how mean and variance depend on the order of BatchNorm and ReLU; the "
    "normalizer-free net keeps both in bounds",
    claim_ja="信号伝播の可視化により BN と ReLU の順序による平均・分散の違いが分かり、NF-ResNet では両方が抑えられる",
    said_in=("003",),
    protocol=f"The five networks of the paper's figures 1 to 3 at depth {DEPTH} get a batch of Gaussian noise at "
    "initialization; squared mean and variance of each block are recorded.",
    rule=f"Holds if without a normalizer the variance of the last block is at least {GROWS:g} times that with "
    "BatchNorm and that of the normalizer-free net, and if BatchNorm behind the ReLU and scaled weight standardization "
    f"each leave at most a {SHIFTED:g}th of the largest squared mean relative to the variance; otherwise it does not "
    "hold here.",
    cases=CASES,
    measure=measure,
    metric="last variance",
    direction="min",
    judge=judge,
    picture=picture,
    seeds=3,
    quick_seeds=2,
)
