"""Sequences of varying length for experiments: digits in a row, read column by column; and two small nets for them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .. import layers
from ..comparison.settings import schedule
from ..layers import make_norm
from .classifying import CLIP

COLUMNS, FEATURES, WIDTH, HEADS = 8, 8, 32, 4

#: The names for `SequenceNorm` and `StepNorm`.
LAYER, BATCH, BATCH_LENGTHS = "LayerNorm", "BatchNorm", "BatchNorm with lengths"
GROUP, INSTANCE, OF_A_STEP = "GroupNorm", "InstanceNorm", "InstanceNorm of a step"
PER_STEP, SHARED = "BatchNorm of each step", "BatchNorm of all steps"


class Sequences(NamedTuple):
    """`x`: ``[N, L, 8]``, zero behind each sequence's end; the lengths; the digits at the ends."""

    x: Tensor
    lengths: Tensor
    y: Tensor


def draw(images: Tensor, labels: Tensor, count: int, least: int, most: int) -> Sequences:
    """Sequences of `least` to `most` digits each, chosen at random."""
    chosen = torch.randint(len(images), (count, most))
    digits = torch.randint(least, most + 1, (count,))
    columns = images[chosen].squeeze(2).transpose(2, 3)  # [N, digits, columns, rows]
    x = columns.reshape(count, most * COLUMNS, FEATURES)
    lengths = digits * COLUMNS
    x = x * (torch.arange(x.shape[1]) < lengths[:, None])[..., None]
    return Sequences(x, lengths, labels[chosen].gather(1, digits[:, None] - 1)[:, 0])


class SequenceNorm(nn.Module):
    """A normalizer of ``[N, L, C]``: LayerNorm at each position, the others over positions, too.

    All but the plain BatchNorm get the lengths, so that padding does not count. InstanceNorm of a step has one value
    per channel and sample, so its output is its bias.
    """

    def __init__(self, name: str, channels: int) -> None:
        super().__init__()
        self.name = name
        made = {
            LAYER: lambda: layers.LayerNorm(channels),
            BATCH: lambda: make_norm("batch", channels, rank=1),
            BATCH_LENGTHS: lambda: make_norm("batch", channels, rank=1),
            GROUP: lambda: make_norm("group:4", channels, rank=1),
            INSTANCE: lambda: layers.InstanceNorm1d(channels, affine=True),
            OF_A_STEP: lambda: layers.InstanceNorm1d(channels, affine=True),
        }
        self.layer = made[name]()

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        if self.name == LAYER:
            return self.layer(x)
        if self.name == OF_A_STEP:
            return 0 * x + self.layer.bias
        known = {} if self.name == BATCH else {"lengths": lengths}
        return self.layer(x.transpose(1, 2), **known).transpose(1, 2)


class Recurrent(nn.Module):
    """Two layers of h(t) = tanh(norm(W x(t)) + U h(t − 1)); the class from the last state of each sequence."""

    def __init__(self, norm: str, classes: int) -> None:
        super().__init__()
        self.inputs = nn.ModuleList([nn.Linear(FEATURES, WIDTH), nn.Linear(WIDTH, WIDTH)])
        self.norms = nn.ModuleList(SequenceNorm(norm, WIDTH) for _ in range(2))
        self.states = nn.ModuleList(nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(2))
        for state in self.states:
            nn.init.orthogonal_(state.weight)  # type: ignore[arg-type]
        self.classifier = nn.Linear(WIDTH, classes)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        for inputs, norm, state in zip(self.inputs, self.norms, self.states, strict=True):
            summed = norm(inputs(x), lengths)
            h, found = x.new_zeros(len(x), WIDTH), []
            for z in summed.unbind(1):
                h = torch.tanh(z + state(h))
                found.append(h)
            x = torch.stack(found, 1)
        return self.classifier(x[torch.arange(len(x)), lengths - 1])


class StepNorm(nn.Module):
    """A normalizer of ``[N, C]`` inside a recurrence, at one step after another.

    BatchNorm pools over the sequences that have not ended at that step. `PER_STEP` has running statistics for each
    step, and beyond the last step of the training uses those of the last; `SHARED` has common ones for all steps.
    """

    def __init__(self, name: str, channels: int, steps: int) -> None:
        super().__init__()
        makers: dict[str, Callable[[], nn.Module]] = {
            LAYER: lambda: layers.LayerNorm(channels),
            GROUP: lambda: layers.GroupNorm(HEADS, channels),
            OF_A_STEP: lambda: layers.InstanceNorm1d(channels, affine=True),
        }
        self.name = name
        make = makers.get(name, lambda: layers.BatchNorm1d(channels))
        self.steps = nn.ModuleList(make() for _ in range(steps if name == PER_STEP else 1))

    def forward(self, x: Tensor, step: int, going_on: Tensor) -> Tensor:
        layer = self.steps[min(step, len(self.steps) - 1)]
        if isinstance(layer, layers.InstanceNorm1d):
            return 0 * x + layer.bias
        if self.name in (LAYER, GROUP):
            return layer(x)
        layer.train(self.training and int(going_on.sum()) > 1)  # a single sequence has no variance over the batch
        return torch.zeros_like(x).index_put((going_on,), layer(x[going_on])) if layer.training else layer(x)


class NormalizedRecurrence(nn.Module):
    """h(t) = tanh(norm(W x(t) + U h(t − 1))), normalized inside the recurrence; the class from the last state."""

    def __init__(self, norm: str, classes: int, steps: int) -> None:
        super().__init__()
        self.inputs, self.state = nn.Linear(FEATURES, WIDTH), nn.Linear(WIDTH, WIDTH, bias=False)
        nn.init.orthogonal_(self.state.weight)
        self.norm = StepNorm(norm, WIDTH, steps)
        self.classifier = nn.Linear(WIDTH, classes)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        h, found = x.new_zeros(len(x), WIDTH), []
        for step, z in enumerate(self.inputs(x).unbind(1)):
            h = torch.tanh(self.norm(z + self.state(h), step, lengths > step))
            found.append(h)
        return self.classifier(torch.stack(found, 1)[torch.arange(len(x)), lengths - 1])


class Transformer(nn.Module):
    """Two pre-norm blocks of attention and a feed-forward net; the class from the last position of each sequence.

    Positions are counted from the end.
    """

    def __init__(self, norm: str, classes: int) -> None:
        super().__init__()
        self.embedding = nn.Linear(FEATURES, WIDTH)
        self.norms = nn.ModuleList(SequenceNorm(norm, WIDTH) for _ in range(5))
        self.queries = nn.ModuleList(nn.Linear(WIDTH, 3 * WIDTH) for _ in range(2))
        self.outputs = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(2))
        self.feeds = nn.ModuleList(
            nn.Sequential(nn.Linear(WIDTH, 2 * WIDTH), nn.GELU(), nn.Linear(2 * WIDTH, WIDTH)) for _ in range(2)
        )
        self.classifier = nn.Linear(WIDTH, classes)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        before_end = lengths[:, None] - 1 - torch.arange(x.shape[1])
        x = self.embedding(x) + _waves(before_end)
        seen = (before_end >= 0)[:, None, None, :]
        for i, (query, output, feed) in enumerate(zip(self.queries, self.outputs, self.feeds, strict=True)):
            q, k, v = query(self.norms[2 * i](x, lengths)).unflatten(2, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
            attended = F.scaled_dot_product_attention(q, k, v, seen)
            x = x + output(attended.transpose(1, 2).flatten(2))
            x = x + feed(self.norms[2 * i + 1](x, lengths))
        return self.classifier(self.norms[-1](x, lengths)[torch.arange(len(x)), lengths - 1])


def _waves(positions: Tensor) -> Tensor:
    """Sines and cosines of positions, ``[N, L, C]``."""
    rates = torch.exp(-math.log(100.0) * torch.arange(0, WIDTH, 2) / WIDTH)
    angles = positions[..., None] * rates
    return torch.cat([angles.sin(), angles.cos()], -1)


def learn(
    net: nn.Module,
    images: Tensor,
    labels: Tensor,
    digits: tuple[int, int],
    *,
    size: int,
    rate: float,
    steps: int,
) -> None:
    """Train a net on drawn sequences by Adam, with a short warm-up and a cosine to zero."""
    optimizer = torch.optim.Adam(net.parameters(), rate)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = rate * schedule(step, steps)
        x, lengths, y = draw(images, labels, size, *digits)
        optimizer.zero_grad()
        F.cross_entropy(net(x, lengths), y).backward()
        nn.utils.clip_grad_norm_(net.parameters(), CLIP)
        optimizer.step()


@torch.no_grad()
def reads(net: nn.Module, images: Tensor, labels: Tensor, digits: tuple[int, int], count: int) -> float:
    """The share of drawn sequences that a net classifies correctly in evaluation."""
    net.eval()
    x, lengths, y = draw(images, labels, count, *digits)
    return float((net(x, lengths).argmax(1) == y).float().mean())
