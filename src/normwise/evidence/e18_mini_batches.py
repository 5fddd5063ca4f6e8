"""E18: the distance of a mini-batch's statistics from those of the whole data."""

from __future__ import annotations

import math

import torch

from ..comparison import TrainingRun
from .charts import lines
from .digits import digits
from .experiment import DOES_NOT_HOLD, HOLDS, Experiment, Results, Verdict

DRAWS = 300
MEAN, VARIANCE = "mean", "variance"
SIZES = (2, 4, 8, 16, 32, 64)
NOTICEABLE = 0.1
SLOPES = (-0.6, -0.4)


def measure(run: TrainingRun) -> dict[str, float]:
    """The spread, over many draws, of a batch's mean or variance of a channel, relative to the channel's standard
    deviation or variance in the whole data; the root mean square over the channels of a random convolution."""
    images = digits().x_train
    channels = torch.nn.functional.conv2d(images, torch.randn(8, 1, 3, 3) / 3)
    whole_var, whole_mean = torch.var_mean(channels, (0, 2, 3), correction=0)
    drawn = torch.stack([torch.randperm(len(images))[: run.batch_size] for _ in range(DRAWS)])
    var, mean = torch.var_mean(channels[drawn], (1, 3, 4), correction=0)
    errors = {MEAN: (mean - whole_mean) / whole_var.sqrt(), VARIANCE: (var - whole_var) / whole_var}[run.name]
    return {"spread": float(errors.square().mean().sqrt())}


def judge(results: Results) -> Verdict:
    slopes = {case: _slope(results, case) for case in (MEAN, VARIANCE)}
    at_four = {case: results.mean(case, 4) for case in (MEAN, VARIANCE)}
    numbers = (
        f"at batch size 4 a channel's mean is off by {at_four[MEAN]:.2f} of its standard deviation and its variance by "
        f"{at_four[VARIANCE]:.0%}, typically; at 64 by {results.mean(MEAN, 64):.3f} and "
        f"{results.mean(VARIANCE, 64):.1%}"
    )
    shrinks = all(SLOPES[0] <= slope <= SLOPES[1] for slope in slopes.values())
    if shrinks and max(at_four.values()) >= NOTICEABLE:
        return Verdict(HOLDS, f"Both shrink as 1/√n (slopes {slopes[MEAN]:.2f} and {slopes[VARIANCE]:.2f}): {numbers}.")
    return Verdict(DOES_NOT_HOLD, f"Slopes {slopes[MEAN]:.2f} and {slopes[VARIANCE]:.2f}; {numbers}.")


def _slope(results: Results, case: str) -> float:
    """The slope of log spread against log batch size, by least squares."""
    points = [(math.log(size), math.log(results.mean(case, size))) for size in results.sizes()]
    middle = [sum(values) / len(points) for values in zip(*points, strict=True)]
    top = sum((x - middle[0]) * (y - middle[1]) for x, y in points)
    return top / sum((x - middle[0]) ** 2 for x, _ in points)


def picture(results: Results) -> str:
    series = {
        f"of the {case}": [(size, results.mean(case, size)) for size in results.sizes()] for case in (MEAN, VARIANCE)
    }
    start = results.mean(MEAN, SIZES[0])
    series["1/√n"] = [(size, start * math.sqrt(SIZES[0] / size)) for size in results.sizes()]
    title = "How far the statistics of a mini-batch are from the whole"
    return lines(title, "batch size", "relative spread over draws", series, log_y=True)


EXPERIMENT = Experiment(
    number="E18",
    claim="A mini-batch stands for the whole, and its statistics fluctuate from draw to draw when it is small",
    claim_ja="ミニバッチは全体の近似であり、4 枚程度では統計量が引くたびにばらつく",
    said_in=("000", "001"),
    protocol=f"{DRAWS} mini-batches of each size are drawn from the digits and sent through a random convolution; the "
    "mean and variance of each channel are compared with those over all images.",
    rule=f"Holds if both spreads fall with a power of the batch size between {SLOPES[0]} and {SLOPES[1]}, and one of "
    f"them is at least {NOTICEABLE:g} at batch size 4; otherwise it does not hold here.",
    cases=(MEAN, VARIANCE),
    measure=measure,
    metric="spread",
    direction="min",
    judge=judge,
    picture=picture,
    sizes=SIZES,
    quick_seeds=2,
)
