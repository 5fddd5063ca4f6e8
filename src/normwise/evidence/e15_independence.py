"""E15: does one sample's output depend on the others?"""

from __future__ import annotations

import torch

from ..comparison import TrainingRun
from ..layers import NORMALIZERS, make_norm
from ..layers.registry import map_normalizers
from .charts import bars
from .experiment import DOES_NOT_HOLD, HOLDS, Experiment, Results, Verdict

SHAPE = (4, 8, 6, 6)
# SyncBatchNorm is BatchNorm in a single process.
NAMES = tuple(name for name in map_normalizers() if name != "sync")
OVER_THE_BATCH = tuple(name for name in NAMES if NORMALIZERS[name].uses_batch)
PARTS = ("training", "gradient", "evaluation")


def measure(run: TrainingRun) -> dict[str, float]:
    """The change of the outputs of samples 2 to 4 when sample 1 is replaced, in training and evaluation; and the
    gradient of their sum of squares with respect to sample 1."""
    x = torch.randn(SHAPE)
    other = x.clone()
    other[0] = 2 * torch.randn(SHAPE[1:]) + 1
    layer = make_norm(run.name, SHAPE[1], rank=2)
    with torch.no_grad():
        training = (layer(x)[1:] - layer(other)[1:]).abs().max()
        layer.eval()
        evaluation = (layer(x)[1:] - layer(other)[1:]).abs().max()
    layer.train()
    x.requires_grad_()
    layer(x)[1:].pow(3).sum().backward()
    assert x.grad is not None
    return {"training": float(training), "evaluation": float(evaluation), "gradient": float(x.grad[0].abs().max())}


def judge(results: Results) -> Verdict:
    moved = {name: {part: max(results.values(name, name=part)) for part in PARTS} for name in results.cases()}
    leaking = [name for name, found in moved.items() if found["training"] > 0 or found["gradient"] > 0]
    in_evaluation = [name for name, found in moved.items() if found["evaluation"] > 0]
    if set(leaking) != set(OVER_THE_BATCH) or in_evaluation:
        wrong = sorted({*leaking} ^ {*OVER_THE_BATCH}) + in_evaluation
        return Verdict(DOES_NOT_HOLD, f"Not as promised: {', '.join(wrong)}.")
    least = min(moved[name]["training"] for name in OVER_THE_BATCH)
    others = len(moved) - len(OVER_THE_BATCH)
    return Verdict(
        HOLDS,
        f"Another first sample moves the outputs of the others by {least:.2g} or more in training under all "
        f"{len(OVER_THE_BATCH)} normalizers that pool over the batch, and by exactly 0 under the other {others}; in "
        "evaluation by exactly 0 under all.",
    )


def picture(results: Results) -> str:
    values = {NORMALIZERS[name].title: (results.mean(name), 0.0) for name in results.cases()}
    return bars(
        "One sample becomes another: how far do the others' outputs move?",
        "relative change in training; 0 is exact",
        values,
    )


EXPERIMENT = Experiment(
    number="E15",
    claim="BatchNorm breaks the independence of the samples of a batch",
    claim_ja="バッチ正規化は、バッチ内の訓練データ間の独立性を崩す",
    said_in=("003",),
    protocol="A batch of 4 random maps goes through each normalizer twice, the second time with another first sample; "
    "the outputs of the other three are compared, and their gradient with respect to the first is taken.",
    rule="Holds if every normalizer that pools over the batch moves the others in training and no other does, and in "
    "evaluation none, zeros being exact; otherwise it does not hold here.",
    cases=NAMES,
    measure=measure,
    metric="training",
    direction="min",
    judge=judge,
    picture=picture,
    quick_seeds=2,
)
