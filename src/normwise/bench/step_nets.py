"""The nets whose training step is measured: with torch's normalizers, with ours instead, and with none."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..core.activations import MODULES
from ..layers import Norm
from ..nets import StyleNet, resnet
from .subjects import SUBJECTS

DEPTH, CLASSES = 50, 1000
#: The sizes of every input are multiples of this.
REDUCTION = 16
_CONDITION = 128
_IN_PLACE = ("relu", "leaky_relu")


class Parts(NamedTuple):
    """The parts of a net: ``norm`` makes a normalizer (or "none") from channels, ``behind`` one from channels and an
    activation, which follows it and is fused where the normalizer is ours."""

    norm: Norm
    behind: Callable[[int, str | None], nn.Module]


#: The normalizers of a net: this package's, torch's, or none.
KINDS = ("ours", "native", "none")


def parts(kind: str, normalizer: str, rank: int) -> Parts:
    """The parts for one of the `KINDS`, a normalizer of `SUBJECTS`, and the number of spatial dimensions."""
    subject = SUBJECTS[normalizer]
    if kind == "ours":
        return Parts(
            lambda channels: subject.ours(channels, rank),
            lambda channels, activation: subject.ours(channels, rank, activation=activation),
        )
    make = subject.native if kind == "native" else None

    def behind(channels: int, activation: str | None) -> nn.Module:
        layers = [] if make is None else [make(channels, rank)]
        if activation is not None:
            layers.append(MODULES[activation](**{"inplace": True} if activation in _IN_PLACE else {}))
        return nn.Sequential(*layers)

    return Parts("none" if make is None else lambda channels: make(channels, rank), behind)


class _Conditioned(nn.Module):
    """Normalize, activate, convolve, twice, with the time step added in between, and a shortcut."""

    def __init__(self, inputs: int, outputs: int, behind: Callable[[int, str | None], nn.Module]) -> None:
        super().__init__()
        self.first = nn.Sequential(behind(inputs, "silu"), nn.Conv2d(inputs, outputs, 3, 1, 1))
        self.time = nn.Linear(_CONDITION, outputs)
        self.second = nn.Sequential(behind(outputs, "silu"), nn.Conv2d(outputs, outputs, 3, 1, 1))
        self.skip = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        return self.skip(x) + self.second(self.first(x) + self.time(time)[:, :, None, None])


class DiffusionUNet(nn.Module):
    """The U-Net of denoising diffusion (Ho, Jain and Abbeel 2020, arXiv:2006.11239), without its attention."""

    def __init__(self, parts: Parts, widths: tuple[int, ...] = (64, 128, 256)) -> None:
        super().__init__()
        self.enter = nn.Conv2d(3, widths[0], 3, 1, 1)
        self.down = nn.ModuleList(_Conditioned(w, w, parts.behind) for w in widths)
        self.smaller = nn.ModuleList(nn.Conv2d(a, b, 3, 2, 1) for a, b in pairwise(widths))
        self.middle = _Conditioned(widths[-1], widths[-1], parts.behind)
        self.up = nn.ModuleList(_Conditioned(2 * w, w, parts.behind) for w in reversed(widths))
        self.larger = nn.ModuleList(nn.Conv2d(b, a, 3, 1, 1) for a, b in reversed(list(pairwise(widths))))
        self.leave = nn.Sequential(parts.behind(widths[0], "silu"), nn.Conv2d(widths[0], 3, 3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        x, time, above = self.enter(x), x.new_ones(len(x), _CONDITION), []
        for i, block in enumerate(self.down):
            x = block(x if i == 0 else self.smaller[i - 1](x), time)
            above.append(x)
        x = self.middle(x, time)
        for i, block in enumerate(self.up):
            if i:
                x = self.larger[i - 1](nn.functional.interpolate(x, scale_factor=2))
            x = block(torch.cat([x, above.pop()], 1), time)
        return self.leave(x)


class VolumeUNet(nn.Module):
    """A 3-D U-Net as configured by nnU-Net (Isensee et al. 2021): convolve, normalize, LeakyReLU, twice a stage."""

    def __init__(self, parts: Parts, widths: tuple[int, ...] = (16, 32, 64)) -> None:
        super().__init__()

        def stage(inputs: int, outputs: int, stride: int = 1) -> nn.Module:
            def half(inputs: int, stride: int) -> list[nn.Module]:
                return [nn.Conv3d(inputs, outputs, 3, stride, 1), parts.behind(outputs, "leaky_relu")]

            return nn.Sequential(*half(inputs, stride), *half(outputs, 1))

        self.down = nn.ModuleList(stage(a, b, 1 if a == 1 else 2) for a, b in pairwise((1, *widths)))
        self.larger = nn.ModuleList(nn.ConvTranspose3d(b, a, 2, 2) for a, b in reversed(list(pairwise(widths))))
        self.up = nn.ModuleList(stage(2 * w, w) for w in reversed(widths[:-1]))
        self.leave = nn.Conv3d(widths[0], 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        above = []
        for stage in self.down:
            x = stage(x)
            above.append(x)
        above.pop()
        for larger, stage in zip(self.larger, self.up, strict=True):
            x = stage(torch.cat([larger(x), above.pop()], 1))
        return self.leave(x)


class _ConvNeXtBlock(nn.Module):
    """A ConvNeXt block: depthwise 7×7 convolution, LayerNorm, two 1×1 convolutions with a GELU, plus x."""

    def __init__(self, width: int, parts: Parts) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            *(nn.Conv2d(width, width, 7, 1, 3, groups=width), parts.behind(width, None)),
            *(nn.Conv2d(width, 4 * width, 1), nn.GELU(), nn.Conv2d(4 * width, width, 1)),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.branch(x)


def convnext(parts: Parts, widths: tuple[int, ...] = (96, 192, 384), depths: tuple[int, ...] = (3, 3, 9)) -> nn.Module:
    """The first three stages of ConvNeXt-T (Liu et al. 2022, arXiv:2201.03545): LayerNorm over the channels."""
    layers: list[nn.Module] = [nn.Conv2d(3, widths[0], 4, 4), parts.behind(widths[0], None)]
    for i, (width, depth) in enumerate(zip(widths, depths, strict=True)):
        if i:
            layers += [parts.behind(widths[i - 1], None), nn.Conv2d(widths[i - 1], width, 2, 2)]
        layers += [_ConvNeXtBlock(width, parts) for _ in range(depth)]
    return nn.Sequential(*layers)


class Trained(NamedTuple):
    """A net, the shape of its input, and the dtypes and layouts in which it is trained."""

    title: str
    shape: tuple[int, ...]
    make: Callable[[Parts], nn.Module]
    norms: tuple[str, ...]
    kinds: tuple[tuple[str, str], ...] = (("fp32", "contiguous"), ("bf16", "channels_last"))


_BOTH = tuple((dtype, layout) for dtype in ("fp32", "bf16") for layout in ("contiguous", "channels_last"))
NETS = {
    "diffusion": Trained("diffusion U-Net", (1, 3, 64, 64), DiffusionUNet, ("group",)),
    "nnunet": Trained("3-D U-Net", (1, 1, 48, 48, 48), VolumeUNet, ("instance",), _BOTH),
    "style": Trained("style transfer", (1, 3, 128, 128), lambda parts: StyleNet(parts.norm), ("instance",)),
    "convnext": Trained("ConvNeXt", (1, 3, 128, 128), convnext, ("pixel-layer",)),
    "resnet": Trained(
        f"ResNet-{DEPTH}",
        (2, 3, 224, 224),
        lambda parts: resnet(DEPTH, parts.norm, num_classes=CLASSES),
        ("batch", "group", "instance"),
    ),
}
