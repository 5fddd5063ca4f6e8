"""The training of small classifiers, for the experiments on accuracy."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..comparison.contestants.renorm import fit_schedules
from ..comparison.data.batches import batches_of_epoch, by_group
from ..comparison.data.training_data import EVALUATION_BATCH
from ..comparison.settings import schedule
from ..layers import make_norm
from ..layers.statistics import no_update, statistics_bank

MOMENTUM, CLIP = 0.9, 1.0
KEPT_BACK = 4  # every 4th sample is held out for the choice of the learning rate


class Task(NamedTuple):
    """Samples and labels to train on, and held-out ones."""

    x: Tensor
    y: Tensor
    x_test: Tensor
    y_test: Tensor

    @property
    def classes(self) -> int:
        return int(self.y.max()) + 1


#: Another optimizer than SGD for a net at a rate.
MakeOptimizer = Callable[[nn.Module, float], torch.optim.Optimizer]


def fit(
    net: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    size: int,
    epochs: int,
    rate: float,
    seed: int,
    groups: Tensor | None = None,
    banked: bool = False,
    optimizer: torch.optim.Optimizer | None = None,
) -> list[float]:
    """Train by SGD with momentum, a short warm-up and a cosine to zero; returns the loss of each step.

    With `groups` every mini-batch is of one group, with `banked` each group has its own running statistics. The
    schedule multiplies the rates of another `optimizer`.
    """
    optimizer = optimizer or torch.optim.SGD(net.parameters(), rate, momentum=MOMENTUM, nesterov=True)
    peaks = [group["lr"] for group in optimizer.param_groups]
    epochs_of = [batches_of_epoch(len(x), groups, size, seed, epoch) for epoch in range(1, epochs + 1)]
    total = sum(map(len, epochs_of))
    fit_schedules(net, total)
    losses = []
    net.train()
    for step, index in enumerate(_flat(epochs_of)):
        for group, peak in zip(optimizer.param_groups, peaks, strict=True):
            group["lr"] = peak * schedule(step, total)
        optimizer.zero_grad()
        with bank_of(net, groups, index, banked):
            loss = F.cross_entropy(net(x[index]), y[index])
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), CLIP)
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


def at_best_rate(
    make: Callable[[], nn.Module],
    task: Task,
    rates: Sequence[float],
    *,
    size: int,
    epochs: int,
    seed: int,
    optimizer: MakeOptimizer | None = None,
) -> tuple[float, float]:
    """The held-out accuracy of the net at its best learning rate, and that rate.

    The net is trained at each rate from the same initial weights on three quarters of the samples; the accuracy on the
    last quarter decides.
    """
    learning, choosing = kept_back(task, seed)
    x, y = task.x[learning], task.y[learning]
    best, found, chosen = -1.0, 0.0, rates[0]
    for rate in rates:
        torch.manual_seed(seed)
        net = make()
        own = None if optimizer is None else optimizer(net, rate)
        fit(net, x, y, size=size, epochs=epochs, rate=rate, seed=seed, optimizer=own)
        right = accuracy(net, task.x[choosing], task.y[choosing])
        if right > best:
            best, found, chosen = right, accuracy(net, task.x_test, task.y_test), rate
    return found, chosen


def kept_back(task: Task, seed: int) -> tuple[Tensor, Tensor]:
    """Indices of the training samples that are learnt from, and of one in `KEPT_BACK` that chooses."""
    order = torch.randperm(len(task.x), generator=torch.Generator().manual_seed(seed))
    return torch.cat([order[i::KEPT_BACK] for i in range(1, KEPT_BACK)]), order[::KEPT_BACK]


def _flat(epochs: list[list[Tensor]]) -> Iterator[Tensor]:
    for batches in epochs:
        yield from batches


def bank_of(net: nn.Module, groups: Tensor | None, index: Tensor, banked: bool) -> AbstractContextManager[object]:
    """Inside the block a net with banks uses the running statistics of the mini-batch's group."""
    return statistics_bank(net, f"group{int(groups[index[0]])}") if banked and groups is not None else nullcontext()


def accuracy(net: nn.Module, x: Tensor, y: Tensor, groups: Tensor | None = None, banked: bool = False) -> float:
    """The accuracy in evaluation; a net with banks uses the statistics of each sample's group."""
    if not banked:
        return _share_right(net, x, y)
    hits = 0.0
    for members in by_group(torch.arange(len(x)), groups):
        with bank_of(net, groups, members, banked):
            hits += _share_right(net, x[members], y[members]) * len(members)
    return hits / len(x)


@torch.no_grad()
def _share_right(net: nn.Module, x: Tensor, y: Tensor) -> float:
    net.eval()
    answers = torch.cat([net(part).argmax(1) for part in x.split(EVALUATION_BATCH)])
    return float((answers == y).float().mean())


@torch.no_grad()
def in_training(net: nn.Module, x: Tensor, size: int, groups: Tensor | None = None) -> Tensor:
    """The outputs with the normalizers in training mode, in mini-batches of one size and of one group each; samples
    that do not fill a mini-batch have NaN."""
    found = torch.full((len(x), 10), float("nan"))
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    net.train()
    with no_update(net):
        for members in by_group(order, groups):
            for index in members[: len(members) // size * size].split(size):
                found[index] = net(x[index])
    net.eval()
    return found


def hits(outputs: Tensor, y: Tensor) -> float:
    """The share of correct rows among those without NaN."""
    known = ~outputs.isnan().any(1)
    return float((outputs[known].argmax(1) == y[known]).float().mean())


def perceptron(norm: str, inputs: int, width: int, depth: int, classes: int) -> nn.Sequential:
    """`depth` times linear layer, normalizer and ReLU, then a linear layer."""
    parts: list[nn.Module] = []
    for i in range(depth):
        parts += [nn.Linear(width if i else inputs, width), make_norm(norm, width, rank=1), nn.ReLU()]
    return nn.Sequential(*parts, nn.Linear(width, classes))
