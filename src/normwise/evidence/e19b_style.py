"""E19b: BatchNorm and InstanceNorm in a net that paints photographs in a style, by batch size."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from ..comparison import TrainingRun
from .charts import lines
from .experiment import DOES_NOT_HOLD, HOLDS, HOLDS_WHEN, UNDECIDED, Experiment, Results, Verdict
from .painting import BATCH, INSTANCE, NORMS, SHOWN, objective, places, trained
from .sheets import sheet

if TYPE_CHECKING:
    from PIL.Image import Image

SIZES = (1, 4, 16)


def measure(run: TrainingRun) -> dict[str, float]:
    """The remaining objective on three places, in evaluation and in training mode; 1 is that of the photograph."""
    net = trained(run.name, run.batch_size, run.seed, run.epochs)
    left = _left(net)
    net.train()
    in_training = _left(net)
    net.eval()
    return {"left": left, "log left": math.log(left), "left in training mode": in_training}


@torch.no_grad()
def _left(net: torch.nn.Module) -> float:
    """The mean over the places; statistics in training mode are those of one place."""
    kept = {name: buffer.clone() for name, buffer in net.named_buffers()}
    shares = [objective(net(place[None]), place[None]) / objective(place[None], place[None]) for place in places()]
    for name, buffer in net.named_buffers():
        buffer.copy_(kept[name])
    return float(torch.stack(shares).mean())


def judge(results: Results) -> Verdict:
    sizes = results.sizes()
    small = sizes[:-1]
    clear = [size for size in small if results.interval(INSTANCE, BATCH, size, "log left")[1] < 0]
    factor = {
        size: math.exp(results.mean(BATCH, size, "log left") - results.mean(INSTANCE, size, "log left"))
        for size in sizes
    }
    said = ", ".join(
        f"{results.mean(BATCH, size):.2f} and {results.mean(INSTANCE, size):.2f} at batch size {size} "
        f"({factor[size]:.1f} times)"
        for size in sizes
    )
    sentence = f"What is left of the objective with BatchNorm and InstanceNorm, 1 for the photograph as it is: {said}."
    mended = all(factor[sizes[-1]] < factor[size] for size in small)
    if clear == small and mended:
        return Verdict(HOLDS, sentence)
    if clear:
        return Verdict(HOLDS_WHEN, f"the batch size is {', '.join(map(str, clear))}. {sentence}")
    ahead = all(factor[size] > 1 for size in small)
    return Verdict(UNDECIDED if ahead else DOES_NOT_HOLD, sentence)


def picture(results: Results) -> str:
    series = {case: results.over_sizes(case) for case in NORMS}
    title = "A net that paints in a style: how much of the task is left undone?"
    return lines(title, "batch size in training", "1: the photograph as it is; less is better", series, log_y=True)


def exhibit(epochs: int) -> Image:
    """Three places of the photographs, and their paintings by the nets of the first seed."""
    given = torch.stack(places())
    rows = {"photographs": given}
    for case in NORMS:
        for size in SIZES:
            net = trained(case, size, 0, epochs)
            with torch.no_grad():
                rows[f"{case}, batch size {size}"] = net(given)
    return sheet(rows, SHOWN)


EXPERIMENT = Experiment(
    number="E19b",
    claim="BatchNorm at small batches spoils painted pictures: E19's claim, tried on the net of E3",
    claim_ja="バッチが小さいと BatchNorm は良い画像を生成できない(E19 の主張を E3 のスタイル変換ネットで検証)",
    said_in=("000",),
    protocol="The net of E3, which paints photographs in bent stripes of three colours, is trained with BatchNorm or "
    f"InstanceNorm in mini-batches of {', '.join(map(str, SIZES[:-1]))} and {SIZES[-1]} crops, for the same number of "
    "steps. Measured is its own objective (colours, textures, content) on three places of the photographs in "
    "evaluation, relative to that of the photograph as it is.",
    rule="Holds if at each batch size but the largest less of the objective is left with InstanceNorm at 95 % "
    "confidence (Student's t on the logarithm, seed by seed), and BatchNorm is nearest to it at the largest; holds "
    "when the batch size is one of those where the first is so; undecided if it is so on average only.",
    cases=tuple(NORMS),
    measure=measure,
    metric="left",
    direction="min",
    judge=judge,
    picture=picture,
    exhibit=exhibit,
    sizes=SIZES,
    epochs=6,
    quick_epochs=3,
)
