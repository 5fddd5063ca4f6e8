"""What the tests of surgery share: random statistics, and outputs in fp64 as the yardstick."""

import copy

import torch
from torch import nn


def trained(model, seed=0):
    """In evaluation, with statistics, γ and β as after a training: nothing is 0 or 1."""
    generator = torch.Generator().manual_seed(seed)

    def fill(tensor, low, high):
        if isinstance(tensor, torch.Tensor):
            with torch.no_grad():
                tensor.copy_(low + (high - low) * torch.rand(tensor.shape, generator=generator))

    for module in model.modules():
        if isinstance(getattr(module, "running_var", None), torch.Tensor):
            fill(module.running_mean, -1.0, 1.0)
            fill(module.running_var, 0.5, 2.0)
            fill(module.weight, 0.5, 1.5)
            fill(module.bias, -0.5, 0.5)
    return model.eval()


def in_fp64(model, *args):
    """The output of an untouched copy in fp64."""
    wide = copy.deepcopy(model).double()
    with torch.no_grad():
        return wide(*[a.double() if isinstance(a, torch.Tensor) and a.is_floating_point() else a for a in args])


def error(actual, expected):
    """The largest error relative to the largest value."""
    return ((actual.double() - expected).abs().max() / expected.abs().max().clamp_min(1e-30)).item()


def outcomes(result):
    return {row.name: row.outcome for row in result.rows}


def reasons(result):
    return {row.name: row.reason for row in result.rows if row.outcome == "kept"}


class Twice(nn.Module):
    """One block that is called two times."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1)
        self.bn = nn.BatchNorm2d(4)

    def forward(self, x):
        return self.bn(self.conv(self.bn(self.conv(x))))


class SharedConv(nn.Module):
    """One convolution with two normalizers, each behind a call of its own."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.bn1, self.bn2 = nn.BatchNorm2d(4), nn.BatchNorm2d(4)

    def forward(self, x):
        return self.bn1(self.conv(x)) + self.bn2(self.conv(2 * x))


class TwoReaders(nn.Module):
    """One output of a convolution with two normalizers."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.bn1, self.bn2 = nn.BatchNorm2d(4), nn.BatchNorm2d(4)

    def forward(self, x):
        y = self.conv(x)
        return self.bn1(y) + self.bn2(y)
