"""E8: mean shift and variance by the order of BatchNorm and ReLU, and without normalizers."""

from __future__ import annotations

import math
import statistics

import torch
from torch import nn

from ..comparison import TrainingRun
from ..signal import trace
from ..signal.paper import paper_networks
from .charts import lines, stacked
from .experiment import DOES_NOT_HOLD, HOLDS, Experiment, Results, Verdict

DEPTH, SHAPE = 26, (8, 3, 64, 64)
BN, AFTER, NONE, NF, PLAIN_NF = tuple(paper_networks(8))
# The paper's figure shows branches of variance 1 there; its weights have half He's variance.
HALVED = f"{AFTER}, weights of variance 1/fan-in"
CASES = (BN, AFTER, HALVED, NONE, NF, PLAIN_NF)
BLOCKS = 8
GROWS, SHIFTED, OFF = 100.0, 10.0, 0.15


def measure(run: TrainingRun) -> dict[str, float]:
    """Squared channel mean, channel variance and branch variance of each residual block at initialization."""
    net = paper_networks(DEPTH)[AFTER if run.name == HALVED else run.name]()
    if run.name == HALVED:
        _halve(net)
    found = trace(net, torch.randn(SHAPE), skip_gain=1.0)
    metrics = {}
    for i, (block, branch) in enumerate(zip(found.blocks, found.branches, strict=True), start=1):
        metrics |= {f"mean² {i}": block.squared_mean, f"variance {i}": block.variance, f"branch {i}": branch.variance}
    return metrics | {"last variance": found.blocks[-1].variance}


@torch.no_grad()
def _halve(net: nn.Module) -> None:
    """Change the variance of the weights from He's 2 / fan-in to 1 / fan-in.

    The factor 2 compensates for a ReLU before the convolution. Behind BatchNorm the signal has mean 0 and variance 1 in
    any case, and a sum over the fan-in with weights of variance v has the variance fan-in · v.
    """
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            module.weight.mul_(math.sqrt(0.5))


def judge(results: Results) -> Verdict:
    variance = {case: results.mean(case) for case in CASES}
    shift = {case: results.mean(case, name=f"mean² {BLOCKS}") / variance[case] for case in CASES}
    branch = {
        case: statistics.fmean(results.mean(case, name=f"branch {i}") for i in range(1, BLOCKS + 1))
        for case in (AFTER, HALVED)
    }
    sentence = (
        f"Variance at the last block: {variance[NONE]:.2g} without a normalizer, {variance[BN]:.2g} with BatchNorm, "
        f"{variance[NF]:.2g} in the normalizer-free net. Squared mean over variance there: {shift[BN]:.2g} with "
        f"BatchNorm before the ReLU, {shift[AFTER]:.2g} after it, {shift[PLAIN_NF]:.2g} normalizer-free without scaled "
        f"weight standardization, {shift[NF]:.2g} with it. The branches of ReLU-BN-Conv have the variance "
        f"{branch[HALVED]:.2f} with weights of variance 1/fan-in, as in the article's panel (c), and "
        f"{branch[AFTER]:.2f} with He's 2/fan-in: his factor 2 makes up for a ReLU, and behind BatchNorm there is "
        "nothing to make up for."
    )
    grows = variance[NONE] >= GROWS * max(variance[BN], variance[NF])
    gone = all(shift[case] * SHIFTED <= max(shift[BN], shift[PLAIN_NF]) for case in (AFTER, NF))
    kept = abs(branch[HALVED] - 1) <= OFF and abs(branch[AFTER] - 2) <= 2 * OFF
    return Verdict(HOLDS if grows and gone and kept else DOES_NOT_HOLD, sentence)


def picture(results: Results) -> str:
    grown = lines(
        "The variance over the blocks at initialization",
        "block",
        "channel variance",
        {case: _over_blocks(results, case, "variance") for case in CASES if case != HALVED},
        log_x=False,
        log_y=True,
    )
    branches = lines(
        "Panel (c): what each branch adds",
        "block",
        "variance of the branch",
        {
            f"{name} ({weights})": _over_blocks(results, case, "branch")
            for name, case, weights in (
                ("ReLU-BN-Conv", AFTER, "2/fan-in"),
                ("ReLU-BN-Conv", HALVED, "1/fan-in"),
                ("BN-ReLU-Conv", BN, "2/fan-in"),
                ("NF-ResNet", NF, "standardized"),
            )
        },
        log_x=False,
    )
    return stacked(grown, branches)


def _over_blocks(results: Results, case: str, name: str) -> list[tuple[float, float]]:
    return [(i, max(1e-12, results.mean(case, name=f"{name} {i}"))) for i in range(1, BLOCKS + 1)]


EXPERIMENT = Experiment(
    number="E8",
    claim="Signal propagation plots show how mean and variance depend on the order of BatchNorm and ReLU; the "
    "normalizer-free net keeps both in bounds",
    claim_ja="信号伝播の可視化により BN と ReLU の順序による平均・分散の違いが分かり、NF-ResNet では両方が抑えられる",
    said_in=("003",),
    protocol=f"The five networks of the paper's figures 1 to 3 at depth {DEPTH} get a batch of Gaussian noise at "
    "initialization, ReLU-BN-Conv with He's weights and with half their variance; squared mean and variance of each "
    "block are recorded, and the variance of its branch.",
    rule=f"Holds if without a normalizer the variance of the last block is at least {GROWS:g} times that with "
    "BatchNorm and that of the normalizer-free net, and if BatchNorm behind the ReLU and scaled weight standardization "
    f"each leave at most a {SHIFTED:g}th of the largest squared mean relative to the variance, and the branches of "
    f"ReLU-BN-Conv have the variance 1 with weights of variance 1/fan-in, and 2 with He's, to {100 * OFF:.0f} %; "
    "otherwise it does not hold here.",
    cases=CASES,
    measure=measure,
    metric="last variance",
    direction="min",
    judge=judge,
    picture=picture,
    seeds=3,
    quick_seeds=2,
)
