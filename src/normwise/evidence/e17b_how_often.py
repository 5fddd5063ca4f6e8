"""E17b: how often training on moving averages explodes."""

from __future__ import annotations

import math
import statistics

from ..comparison import TrainingRun
from .charts import lines
from .e17_moving_averages import BATCH, EXPLODES, NAIVE, NORMS, RENORM, SIZE, case_of, factors, gradients
from .experiment import DOES_NOT_HOLD, HOLDS, HOLDS_WHEN, UNDECIDED, Experiment, Results, Verdict, more_than_half

RATES = (0.1, 0.3)
PARTS = 12


def measure(run: TrainingRun) -> dict[str, float]:
    """The largest norm of the gradient over the training, and the decimal logarithm of that in each twelfth of it."""
    norms, loss = gradients(run)
    length = math.ceil(len(norms) / PARTS)
    parts = [norms[i : i + length] for i in range(0, len(norms), length)]
    found = {f"log part {i}": math.log10(max(part)) for i, part in enumerate(parts, start=1)}
    return {"largest gradient": max(norms), "last loss": loss, **found}


def judge(results: Results) -> Verdict:
    seeds = len(results.values(case_of(BATCH, RATES[0])))
    often = {(norm, rate): exploded(results, norm, rate) for norm in (NAIVE, RENORM) for rate in RATES}
    said = "; ".join(
        f"at a learning rate of {rate:g} in {often[NAIVE, rate]} of {seeds} runs with moving averages and in "
        f"{often[RENORM, rate]} with Batch Renormalization"
        for rate in RATES
    )
    sentence = f"The largest gradient is at least {EXPLODES:g} times BatchNorm's {said}."
    most = more_than_half(seeds)
    shown = [rate for rate in RATES if often[NAIVE, rate] >= most and often[RENORM, rate] <= seeds - most]
    if len(shown) == len(RATES):
        return Verdict(HOLDS, sentence)
    if shown:
        return Verdict(HOLDS_WHEN, f"the learning rate is {shown[0]:g}. {sentence}")
    rarely = all(often[NAIVE, rate] <= seeds - most for rate in RATES)
    return Verdict(DOES_NOT_HOLD if rarely else UNDECIDED, sentence)


def exploded(results: Results, norm: str, rate: float) -> int:
    """In how many runs the largest gradient is `EXPLODES` times that of BatchNorm with the same seed."""
    return sum(factor >= EXPLODES for factor in factors(results, norm, rate))


def picture(results: Results) -> str:
    rate = max(RATES)
    series = {norm: _over_time(results, case_of(norm, rate)) for norm in NORMS}
    seeds = len(results.values(case_of(BATCH, rate)))
    title = (
        f"Exploding runs at a rate of {rate:g}: moving averages {exploded(results, NAIVE, rate)} of {seeds}, "
        f"renormalization {exploded(results, RENORM, rate)}"
    )
    axis = "norm of the gradient, largest in each twelfth (geometric mean)"
    return lines(title, "share of the training, %", axis, series, log_x=False, log_y=True)


def _over_time(results: Results, case: str) -> list[tuple[float, float]]:
    found = []
    for part in range(1, PARTS + 1):
        values = results.values(case, name=f"log part {part}")
        if values:  # a run that exploded beyond all bounds has ended
            found.append((round(100 * part / PARTS), 10 ** statistics.fmean(values)))
    return found


EXPERIMENT = Experiment(
    number="E17b",
    claim="Training on moving averages makes the gradients explode, and therefore there is Batch Renormalization: "
    "E17's claim over many seeds",
    claim_ja="学習時に全体の統計量(移動平均)で正規化すると勾配爆発に陥る。Batch Renormalization はそれを避ける"
    "(E17 の主張を多数のシードで検証)",
    said_in=("001",),
    protocol=f"The nets of E17, mini-batches of {SIZE}, at the learning rates {RATES[0]:g} and {RATES[1]:g}, over so "
    "many seeds that the share of those in which the gradient explodes can be told. (Nets of 8 and 16 layers and "
    "ResNets of 8 and 20 were tried at rates up to 0.2 and did not explode.)",
    rule=f"Holds if at both rates the gradient explodes (its largest norm is at least {EXPLODES:g} times BatchNorm's "
    "with the same seed) in more than half of the runs with moving averages and in less than half with Batch "
    "Renormalization, both beyond doubt (sign test at 95 %); holds when the learning rate is one of them; does not "
    "hold here if at both it explodes in less than half of the runs with moving averages beyond doubt; otherwise "
    "undecided.",
    cases=tuple(case_of(norm, rate) for norm in NORMS for rate in RATES),
    measure=measure,
    metric="largest gradient",
    direction="min",
    judge=judge,
    picture=picture,
    seeds=20,
    epochs=6,
    quick_seeds=10,
    quick_epochs=5,
)
