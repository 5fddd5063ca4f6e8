"""E19: BatchNorm and InstanceNorm in a generator that translates pictures."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from ..comparison import TrainingRun
from ..nets.gan import Discriminator, Translator
from .charts import lines
from .digits import digits
from .experiment import DOES_NOT_HOLD, HOLDS, HOLDS_WHEN, UNDECIDED, Experiment, Results, Verdict
from .sheets import sheet
from .steps import take_step

if TYPE_CHECKING:
    from PIL.Image import Image

NORMS = {"InstanceNorm": "instance", "BatchNorm": "batch"}
INSTANCE, BATCH = NORMS
SIZES = (1, 4, 16)
RATE, PICTURES_OF_EPOCH, MOST_STEPS = 1e-3, 640, 60
CYCLE, TESTED, SHOWN = 10.0, 256, 10

#: The map from a digit in (-1, 1) to each domain. The training has no pairs of a digit and its counterpart.
DOMAINS: dict[str, Callable[[Tensor], Tensor]] = {
    "as written": lambda x: x,
    "negative": lambda x: -x,
    "faint": lambda x: 0.25 * x + 0.25,
}


def in_domains(x: Tensor, labels: Tensor) -> Tensor:
    """Each digit in the form of its domain."""
    every = torch.stack([change(x) for change in DOMAINS.values()])
    return every[labels, torch.arange(len(x))]


@lru_cache(maxsize=1)
def _pictures() -> tuple[Tensor, Tensor]:
    """Digits to train on and held-out ones, in (-1, 1)."""
    train, test = digits().x_train, digits().x_test
    low, high = train.min(), train.max()
    return 2 * (train - low) / (high - low) - 1, (2 * (test - low) / (high - low) - 1).clamp(-1, 1)


@lru_cache(maxsize=32)
def trained(case: str, size: int, seed: int, epochs: int) -> Translator:
    """Train by StarGAN's losses: real or generated, the domain, and the reconstruction of the given picture."""
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        net, critic = (
            Translator(len(DOMAINS), width=16, blocks=1, norm=NORMS[case]),
            Discriminator(width=16, spectral=True, classes=len(DOMAINS)),
        )
        optimizers = [torch.optim.Adam(module.parameters(), RATE, (0.5, 0.99)) for module in (net, critic)]
        for _ in range(epochs * min(MOST_STEPS, PICTURES_OF_EPOCH // size)):
            origin, target = torch.randint(len(DOMAINS), (2, size))
            x = in_domains(_pictures()[0][torch.randint(len(_pictures()[0]), (size,))], origin)
            made = net(x, target)
            real_score, real_class = critic(x)
            told = F.relu(1 - real_score).mean() + F.relu(1 + critic(made.detach())[0]).mean()
            take_step(optimizers[1], told + F.cross_entropy(real_class, origin))
            score, domain = critic(made)
            back = (net(made, origin) - x).abs().mean()
            take_step(optimizers[0], F.cross_entropy(domain, target) - score.mean() + CYCLE * back)
    return net.eval()


@torch.no_grad()
def measure(run: TrainingRun) -> dict[str, float]:
    """The distance of translated held-out digits from the correct ones; 1 is the distance of the given digits."""
    with torch.enable_grad():
        net = trained(run.name, run.batch_size, run.seed, run.epochs)
    digit = _pictures()[1][:TESTED]
    origin = torch.arange(len(digit)) % len(DOMAINS)
    target = (origin + 1 + torch.arange(len(digit)) // len(DOMAINS) % 2) % len(DOMAINS)
    given, wanted = in_domains(digit, origin), in_domains(digit, target)
    unit = (given - wanted).square().mean().sqrt()
    found = {"error": float((net(given, target) - wanted).square().mean().sqrt() / unit)}
    net.train()
    pieces = [net(x, t) for x, t in zip(given.split(run.batch_size), target.split(run.batch_size), strict=True)]
    net.eval()
    return found | {"error in training mode": float((torch.cat(pieces) - wanted).square().mean().sqrt() / unit)}


def judge(results: Results) -> Verdict:
    small = [size for size in results.sizes() if size < max(results.sizes())]
    clear = [size for size in small if results.interval(INSTANCE, BATCH, size)[1] < 0]
    said = ", ".join(
        f"{results.mean(BATCH, size):.2f} and {results.mean(INSTANCE, size):.2f} at batch size {size}"
        for size in results.sizes()
    )
    sentence = f"Error with BatchNorm and InstanceNorm, where 1 is a picture that is not changed at all: {said}."
    if clear == small:
        return Verdict(HOLDS, sentence)
    if clear:
        return Verdict(HOLDS_WHEN, f"the batch size is {', '.join(map(str, clear))}. {sentence}")
    ahead = all(results.mean(INSTANCE, size) < results.mean(BATCH, size) for size in small)
    return Verdict(UNDECIDED if ahead else DOES_NOT_HOLD, sentence)


def picture(results: Results) -> str:
    series = {case: results.over_sizes(case) for case in NORMS}
    title = "Digits made negative or faint by a GAN: how far from what was asked?"
    return lines(title, "batch size", "error, 1: not changed at all", series)


def exhibit(epochs: int) -> Image:
    """Held-out digits, made negative by the first seed's nets."""
    digit = _pictures()[1][:SHOWN]
    asked = torch.full((SHOWN,), 1)
    rows = {"given": digit, "asked for": -digit}
    for case in NORMS:
        for size in SIZES:
            net = trained(case, size, 0, epochs)
            with torch.no_grad():
                rows[f"{case}, batch size {size}"] = net(digit, asked)
    return sheet({name: (row + 1) / 2 for name, row in rows.items()})


EXPERIMENT = Experiment(
    number="E19",
    claim="BatchNorm at small batches spoils generated pictures; generators of GANs take InstanceNorm",
    claim_ja="バッチが小さいと BatchNorm は良い画像を生成できない。StarGAN などの生成器では InstanceNorm が使われる",
    said_in=("000", "001", "002"),
    protocol="A label-conditioned generator learns by StarGAN's game to turn digits as written, negative and faint "
    "into each other, without pairs, with BatchNorm or InstanceNorm at batch sizes 1, 4 and 16. Since the domains are "
    "made by formulas, what should come out is known: the error is the root mean square distance from it, in "
    "evaluation, relative to that of the given picture.",
    rule="Holds if at each batch size but the largest the error is smaller with InstanceNorm at 95 % confidence "
    "(Student's t, seed by seed); holds when the batch size is one of those; undecided if it is so on average only.",
    cases=tuple(NORMS),
    measure=measure,
    metric="error",
    direction="min",
    judge=judge,
    picture=picture,
    exhibit=exhibit,
    sizes=SIZES,
    epochs=6,
    quick_seeds=2,
    quick_epochs=2,
)
