"""Tiny models and data for the tests of the comparison, also reachable as `small_problems:name`."""

from dataclasses import replace

import torch
from torch import Tensor, nn

from normwise.comparison.data.in_memory import Data, fingerprint
from normwise.layers import make_norm

not_a_function = 3


def pair(samples: int, seed: int) -> tuple[Tensor, Tensor]:
    """Three easily told classes of 1×6×6 images."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(samples) % 3
    x = 0.5 * torch.randn(samples, 1, 6, 6, generator=generator)
    x[torch.arange(samples), :, 2 * y] += 1.5
    return x, y


def blobs() -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    return pair(48, 1), pair(21, 2)


def blob_data() -> Data:
    (x, y), (x_test, y_test) = blobs()
    data = Data("blobs", x, y, x_test, y_test, ("0", "1", "2"))
    return replace(data, fingerprint=fingerprint(data))


class Net(nn.Module):
    """Two normalized convolutions; the second one's normalizer is given a name that sorts first."""

    def __init__(self, norm: str = "batch", in_channels: int = 1, classes: int = 3) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, 8, 3, bias=norm == "none")
        self.norm1 = make_norm(norm, 8)
        self.conv2 = nn.Conv2d(8, 8, 3)
        self.a_norm = make_norm(norm, 8)
        self.drop = nn.Dropout(0.1)
        self.classifier = nn.Linear(8, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm1(self.conv1(x)))
        x = torch.relu(self.a_norm(self.conv2(x)))
        return self.classifier(self.drop(x.mean((2, 3))))


def net(norm: str, in_channels: int, classes: int) -> nn.Module:
    return Net(norm, in_channels, classes)


class NormAct(nn.BatchNorm2d):
    """Shaped like timm's BatchNormAct2d."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.drop, self.act = nn.Dropout(0.5), nn.SiLU(inplace=True)

    def forward(self, x):
        return self.act(self.drop(super().forward(x)))


def fixed_net() -> nn.Module:
    """Takes nothing: its layers are replaced."""
    return nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(8 * 16, 3)
    )


def diverging_net(norm: str) -> nn.Module:
    """The last layer multiplies by 1e30: the loss overflows at once."""

    class Explosion(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * 1e30 * x.detach().abs().mean().mul(1e30)

    return nn.Sequential(Net(norm), Explosion())


def needs_width(width: int) -> nn.Module:
    return nn.Linear(width, 3)


def number(norm: str) -> int:
    return 7
