"""Nets with one fault each, and what a diagnosis must say of it first."""

import copy
import math

import torch
import torch.nn.functional as F
from torch import nn

import normwise as nw


def conv(inputs, outputs, bias=False, size=3):
    return nn.Conv2d(inputs, outputs, size, padding=size // 2, bias=bias)


def images(batch=16):
    return torch.randn(batch, 3, 12, 12)


def plain(norm=nn.BatchNorm2d, *, bias=False, between=(), width=16):
    """Three convolutions with normalizers; `between` stands before the second one's."""
    return nn.Sequential(
        *(conv(3, width, bias), norm(width), nn.ReLU()),
        *(conv(width, width, bias), *between, norm(width), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 5)),
    )


class Block(nn.Module):
    """x + f(x), where the variance of f(x) is `share` of that of x."""

    def __init__(self, width, share):
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1, padding_mode="circular", bias=False)
        nn.init.normal_(self.conv.weight, std=math.sqrt(2 * share / (9 * width)))
        with torch.no_grad():
            self.conv.weight -= self.conv.weight.mean((1, 2, 3), keepdim=True)
        self.share = share

    def forward(self, x):
        return x + self.conv(F.relu(x)) * math.sqrt(1 / (1 - 1 / math.pi))


class SoundBlock(Block):
    """The branch starts from a normalized signal: each adds the same."""

    def forward(self, x):
        return x + self.conv(F.relu(F.group_norm(x, 1))) * math.sqrt(1 / (1 - 1 / math.pi))


def residual(blocks, share, kind=Block):
    return nn.Sequential(conv(3, 32), *(kind(32, share) for _ in range(blocks)))


class Dropping(nn.Module):
    """Dropout as a function, a convolution in front of the normalizer."""

    def __init__(self):
        super().__init__()
        self.stem, self.conv, self.norm = conv(3, 32), conv(32, 32), nn.BatchNorm2d(32)

    def forward(self, x):
        return self.norm(self.conv(F.dropout(F.relu(self.stem(x)), 0.5, self.training)))


class Root(nn.Module):
    """What `where` hides is in the gradient all the same."""

    def forward(self, x):
        return torch.where(x > 0, torch.sqrt(x), torch.zeros_like(x))


def with_nan_in_weight():
    net = plain()
    with torch.no_grad():
        net[3].weight[1, 2, 0, 0] = math.nan
    return net, images()


def with_nan_in_data():
    batch = images()
    batch[3, 0, 2, 2] = math.nan
    return plain(), [(batch, torch.arange(16)), (images(), torch.arange(16))]


def with_dead_units(name):
    net = nn.Sequential(conv(3, 16), nn.ReLU(), conv(16, 16, bias=True), nn.ReLU(), conv(16, 8))
    with torch.no_grad():
        if name == "bias":
            net[2].bias.fill_(-100.0)
        else:
            net[2].weight.zero_()
    return net, images()


def learned(net, batch, times=60):
    with torch.no_grad():
        for _ in range(times):
            net.train()(batch)
    return net


def poisoned():
    net = learned(plain(), images())
    batch = images()
    batch[0, 0, 0, 0] = math.inf
    return learned(net, batch, 1), [(images(), torch.arange(16))]


def stale():
    return learned(plain(), images()), [(images() * 4 + 3, torch.arange(16))]


def deep(step, depth=30):
    return nn.Sequential(*[layer for _ in range(depth) for layer in step()])


def steep_step():
    linear = nn.Linear(64, 64, bias=False)
    nn.init.normal_(linear.weight, std=2 / 8)
    return linear, nn.Hardtanh()


def grouped(kind):
    return nn.Sequential(nn.Linear(12, 16), kind(16, 16), nn.ReLU(), nn.Linear(16, 3)), torch.randn(24, 12)


def momentum(value):
    return lambda width: nn.BatchNorm2d(width, momentum=value)


def without_memory(width):
    return nn.BatchNorm2d(width, track_running_stats=False)


def in_every_channel(width):
    return nn.GroupNorm(width, width)


#: The fault: its net and its data, the rule that is first in the list, and the module.
def converted(layer):
    """By a function that this package knows nothing of."""
    norm = nn.BatchNorm2d(layer.num_features, layer.eps, layer.momentum)
    norm.load_state_dict(layer.state_dict(), strict=False)
    return copy.deepcopy(nn.Sequential(conv(3, 16), norm, conv(16, 3)))


FAULTS = {
    "momentum 0.99 at batch 2": (lambda: (plain(momentum(0.99)), images(2)), "high momentum", "1"),
    "momentum 0.99 at batch 32": (lambda: (plain(momentum(0.99)), images(32)), "high momentum", "1"),
    "momentum 0.4 at batch 2": (lambda: (plain(momentum(0.4)), images(2)), "high momentum", "1"),
    "momentum 0.9 of an InstanceNorm that remembers": (
        lambda: (plain(lambda width: nn.InstanceNorm2d(width, momentum=0.9, track_running_stats=True)), images()),
        "high momentum",
        "1",
    ),
    "track_running_stats=False": (lambda: (plain(without_memory), images()), "no running statistics", "1"),
    "dropout before BatchNorm": (
        lambda: (plain(between=[nn.Dropout(0.5)]), images()),
        "dropout before BatchNorm",
        "4",
    ),
    "channels dropped before BatchNorm": (
        lambda: (plain(between=[nn.Dropout2d(0.4)]), images(64)),
        "dropout before BatchNorm",
        "4",
    ),
    "dropout by function, a convolution before BatchNorm": (
        lambda: (Dropping(), images()),
        "dropout before BatchNorm",
        "Dropping",
    ),
    "an activation lost in somebody's conversion": (
        lambda: (converted(nw.BatchNorm2d(16, activation="relu")), images()),
        "lost in a conversion",
        "1",
    ),
    "a formula lost in somebody's conversion": (
        lambda: (converted(nw.SwitchableNorm2d(16)), images()),
        "lost in a conversion",
        "1",
    ),
    "two BatchNorms in a row": (lambda: (plain(between=[nn.BatchNorm2d(16)]), images()), "normalizers in a row", "5"),
    "BatchNorm behind InstanceNorm": (
        lambda: (plain(between=[nn.InstanceNorm2d(16, affine=True)]), images()),
        "normalizers in a row",
        "5",
    ),
    "two LayerNorms in a row": (
        lambda: (
            nn.Sequential(nn.Linear(12, 16), nn.LayerNorm(16), nn.LayerNorm(16), nn.GELU(), nn.Linear(16, 3)),
            torch.randn(24, 12),
        ),
        "normalizers in a row",
        "2",
    ),
    "one value per group": (lambda: grouped(nn.GroupNorm), "one value per group", "1"),
    "one value per group, ours": (lambda: grouped(nw.GroupNorm), "one value per group", "1"),
    "one value per sample": (
        lambda: (nn.Sequential(nn.Linear(12, 1), nn.LayerNorm(1), nn.Linear(1, 3)), torch.randn(24, 12)),
        "one value per position",
        "1",
    ),
    "one value per channel": (
        lambda: (nn.Sequential(conv(3, 8), nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(8)), images(1)),
        "one value per channel",
        "2",
    ),
    "a bias before BatchNorm": (lambda: (plain(bias=True), images()), "useless bias", "0"),
    "a bias before InstanceNorm": (lambda: (plain(nn.InstanceNorm2d, bias=True), images()), "useless bias", "0"),
    "a bias before a pool before BatchNorm": (
        lambda: (plain(bias=True, between=[nn.MaxPool2d(2), nn.Identity()])[3:], torch.randn(16, 16, 8, 8)),
        "useless bias",
        "3",
    ),
    "a bias before BatchNorm of flat features": (
        lambda: (nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.BatchNorm1d(400)), images()),
        "useless bias",
        "0",
    ),
    "a bias before GroupNorm of one channel each": (
        lambda: (plain(in_every_channel, bias=True), images()),
        "useless bias",
        "0",
    ),
    "NaN in the data": (with_nan_in_data, "not finite", "input"),
    "NaN in a weight": (with_nan_in_weight, "not finite", "3"),
    "a gradient that is not finite": (
        lambda: (nn.Sequential(nn.Linear(12, 8), Root(), nn.Linear(8, 2)), torch.randn(24, 12)),
        "not finite",
        "0",
    ),
    "a NaN that stays in the memory": (poisoned, "poisoned statistics", "1"),
    "statistics of other data": (stale, "stale statistics", "1"),
    "variance times 1.45 for each of 14 blocks": (
        lambda: (residual(14, 0.45), (8, 3, 12, 12)),
        "growing variance",
        "14",
    ),
    "variance times 1.3 for each of 20 blocks": (
        lambda: (residual(20, 0.3), (8, 3, 12, 12)),
        "growing variance",
        "20",
    ),
    "variance times 0.6 for each of 14 layers": (
        lambda: (deep(lambda: (shrinking(0.68),), 14), torch.randn(64, 64)),
        "vanishing variance",
        "13",
    ),
    "units that never open": (lambda: with_dead_units("bias"), "dead layer", "3"),
    "a layer of zeros": (lambda: with_dead_units("weight"), "dead layer", "2"),
    "a signal that saturated units let die": (
        lambda: (deep(lambda: (nn.Linear(64, 64), nn.Sigmoid())), torch.randn(64, 64)),
        "vanishing variance",
        None,
    ),
    "a gradient that explodes": (lambda: (deep(steep_step), torch.randn(64, 64)), "exploding gradient", "0"),
    "a small batch": (lambda: (plain(), images(2)), "small batch", "1"),
}


def shrinking(factor):
    linear = nn.Linear(64, 64, bias=False)
    nn.init.normal_(linear.weight, std=math.sqrt(factor / 64))
    return linear
