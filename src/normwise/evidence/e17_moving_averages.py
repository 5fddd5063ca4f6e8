"""E17: training on moving averages."""

from __future__ import annotations

import math
import statistics

import torch
from torch import Tensor, nn

from ..comparison import TrainingRun
from ..comparison.contestants.renorm import fit_schedules
from ..layers import make_norm
from .charts import lines
from .digits import digits, flat
from .experiment import DOES_NOT_HOLD, HOLDS, HOLDS_WHEN, UNDECIDED, Experiment, Results, Verdict

BATCH, RENORM, NAIVE = "batch statistics", "batch renormalization", "moving averages"
NORMS, RATES = (BATCH, RENORM, NAIVE), (0.1, 0.3, 0.5)
DEPTH, WIDTH, SIZE = 4, 64, 16
CEILING = 1e30
EXPLODES, STAYS = 10.0, 3.0
QUARTERS = (1, 2, 3, 4)
NAMES = {BATCH: "batch", RENORM: "renorm"}


class MovingAverageNorm(nn.Module):
    """A wrong form of BatchNorm: x̂ = (x − running mean) / √(running variance + ε) also in training.

    The gradient does not pass through the averages: it ignores that the averages will change with the layer's input, so
    steps along it may scale the input without limit.
    """

    def __init__(self, channels: int, momentum: float = 0.1, eps: float = 1e-5) -> None:
        super().__init__()
        self.momentum, self.eps = momentum, eps
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))
        self.mean: Tensor
        self.var: Tensor
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("var", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            with torch.no_grad():
                var, mean = torch.var_mean(x, 0)
                self.mean.lerp_(mean, self.momentum)
                self.var.lerp_(var, self.momentum)
        return (x - self.mean) * (self.var + self.eps).rsqrt() * self.weight + self.bias


def measure(run: TrainingRun) -> dict[str, float]:
    """The largest norm of the gradient over the whole training and over each quarter of it, and the last loss."""
    norms, loss = gradients(run)
    quarter = math.ceil(len(norms) / len(QUARTERS))
    parts = {f"quarter {q}": max(norms[quarter * (q - 1) : quarter * q], default=CEILING) for q in QUARTERS}
    return {"largest gradient": max(norms), "last loss": loss, **parts}


def gradients(run: TrainingRun) -> tuple[list[float], float]:
    """The norm of the gradient in each step, at most `CEILING`, at which the training ends; and the last loss."""
    norm, _, rate = run.name.partition(", rate ")
    data = digits()
    x, y = flat(data.x_train), data.y_train
    net = _net(norm)
    fit_schedules(net, run.epochs * (len(x) // SIZE))
    optimizer = torch.optim.SGD(net.parameters(), float(rate), momentum=0.9)
    norms, loss = [], torch.zeros(())
    for _ in range(run.epochs):
        for index in torch.randperm(len(x)).split(SIZE)[: len(x) // SIZE]:
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(net(x[index]), y[index])
            loss.backward()
            norms.append(
                _bounded(float(nn.utils.get_total_norm([p.grad for p in net.parameters() if p.grad is not None])))
            )
            if norms[-1] == CEILING:
                break
            optimizer.step()
    return norms, _bounded(float(loss.detach()))


def case_of(norm: str, rate: float) -> str:
    return f"{norm}, rate {rate:g}"


def _net(norm: str) -> nn.Sequential:
    layers: list[nn.Module] = []
    for _ in range(DEPTH):
        layer = MovingAverageNorm(WIDTH) if norm == NAIVE else make_norm(NAMES[norm], WIDTH, rank=1)
        layers += [nn.Linear(WIDTH, WIDTH), layer, nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(WIDTH, 10))


def _bounded(value: float) -> float:
    return min(value, CEILING) if math.isfinite(value) else CEILING


def judge(results: Results) -> Verdict:
    naive, renorm = ({rate: factors(results, norm, rate) for rate in RATES} for norm in (NAIVE, RENORM))
    if any(len(found) < 2 for found in naive.values()):
        return Verdict(UNDECIDED, "Fewer than two seeds are finished.")
    said = " ".join(
        f"At a learning rate of {rate:g} the largest gradient is {_between(naive[rate])} times BatchNorm's with moving "
        f"averages, {_between(renorm[rate])} times with Batch Renormalization."
        for rate in RATES
    )
    tame = all(max(found) <= STAYS for found in renorm.values())
    exploding = [rate for rate in RATES if min(naive[rate]) >= EXPLODES]
    if not tame or not exploding:
        some = any(max(found) >= EXPLODES for found in naive.values())
        return Verdict(UNDECIDED if some else DOES_NOT_HOLD, said)
    if len(exploding) == len(RATES):
        return Verdict(HOLDS, said)
    return Verdict(HOLDS_WHEN, f"the learning rate is large. {said}")


def factors(results: Results, norm: str, rate: float) -> list[float]:
    """The largest gradient relative to BatchNorm's, seed by seed."""
    runs = (results.values(case_of(norm, rate)), results.values(case_of(BATCH, rate)))
    return [a / b for a, b in zip(*runs, strict=False)]


def _between(values: list[float]) -> str:
    return f"{min(values):.2g} to {max(values):.2g}"


def picture(results: Results) -> str:
    series = {norm: [(rate, _middle(results.values(case_of(norm, rate)))) for rate in RATES] for norm in NORMS}
    title = "How large does the gradient get while training?"
    return lines(title, "learning rate", "largest norm of the gradient (geometric mean over seeds)", series, log_y=True)


def _middle(norms: list[float]) -> float:
    return math.exp(statistics.fmean(map(math.log, norms)))


EXPERIMENT = Experiment(
    number="E17",
    claim="Training on moving averages makes the gradients explode, and therefore there is Batch Renormalization",
    claim_ja="学習時に全体の統計量(移動平均)で正規化すると勾配爆発に陥る。Batch Renormalization はそれを避ける",
    said_in=("001",),
    protocol=f"A fully connected net of {DEPTH} layers learns the digits in mini-batches of {SIZE}, at three learning "
    "rates: with BatchNorm, with Batch Renormalization, whose limits widen in the course of the run, and with a layer "
    "that normalizes by its moving averages in training, too. (With wide limits from the first step Batch "
    "Renormalization explodes as well.)",
    rule=f"Holds if with moving averages the largest gradient is at least {EXPLODES:g} times BatchNorm's in every seed "
    f"and with Batch Renormalization at most {STAYS:g} times; holds when the learning rate is large, if that is so at "
    "the larger rates only; undecided if it happens in some seeds only.",
    cases=tuple(case_of(norm, rate) for norm in NORMS for rate in RATES),
    measure=measure,
    metric="largest gradient",
    direction="min",
    judge=judge,
    picture=picture,
    epochs=8,
    quick_epochs=5,
)
