"""EfficientNets, with the normalizer as an argument. Tan and Le 2019, arXiv:1905.11946."""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..layers import Norm, make_norm
from .forms import Stem, check_sizes, checked_choice
from .residual import StochasticDepth


class EfficientNetVariant(NamedTuple):
    """Factors of channels and blocks, resolution, dropout."""

    width: float
    depth: float
    size: int
    dropout: float


EFFICIENTNETS = {
    "b0": EfficientNetVariant(1.0, 1.0, 224, 0.2),
    "b1": EfficientNetVariant(1.0, 1.1, 240, 0.2),
    "b2": EfficientNetVariant(1.1, 1.2, 260, 0.3),
    "b3": EfficientNetVariant(1.2, 1.4, 300, 0.3),
    "b4": EfficientNetVariant(1.4, 1.8, 380, 0.4),
    "b5": EfficientNetVariant(1.6, 2.2, 456, 0.4),
    "b6": EfficientNetVariant(1.8, 2.6, 528, 0.5),
    "b7": EfficientNetVariant(2.0, 3.1, 600, 0.5),
}

# B0: expansion, kernel, stride, channels, blocks of each stage; channels of the stem and behind the last stage.
STAGES = (
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
)
STEM, LAST = 32, 1280
SQUEEZE_RATIO = 0.25
#: Momentum 0.99 and ε as in TensorFlow.
MOMENTUM, EPS = 0.01, 1e-3


def efficientnet(
    variant: str = "b0",
    num_classes: int = 1000,
    in_channels: int = 3,
    *,
    norm: Norm = "batch",
    stem: Stem | None = None,
    width: float | None = None,
    dropout: float | None = None,
    stochastic_depth: float = 0.2,
) -> EfficientNet:
    """An EfficientNet, variant "b0" to "b7": inverted bottlenecks with depthwise convolutions and squeeze-excite.

    Input ``[N, in_channels, H, W]`` of any size, output ``[N, num_classes]``. `EFFICIENTNETS` lists the resolution of
    each variant.

    Args:
        norm: the normalizer; any name, class or factory of `make_norm`. BatchNorm gets the momentum and ε of the
            authors.
        stem: "small" gives the first convolution stride 1. width: the factor of the channels; None is the variant's.
        dropout: before the classifier; None is the variant's. stochastic_depth: the blocks' rate grows from 0 by
            equal steps and would reach this value after the last block; the survivors are rescaled.

    Raises ValueError for an unknown variant or stem and sizes that are not positive.

    Source: Tan and Le 2019, arXiv:1905.11946. Deviation: strided windows are padded symmetrically, as in torchvision;
    for an even size the authors' code puts the one extra zero at the end.

    >>> sum(p.numel() for p in efficientnet("b0").parameters())
    5288548
    """
    checked_choice("efficientnet", "variant", variant, tuple(EFFICIENTNETS))
    stem = checked_choice("efficientnet", "stem", stem or "imagenet", ("small", "imagenet"))  # type: ignore[assignment]
    check_sizes("efficientnet", num_classes=num_classes, in_channels=in_channels)
    form = EFFICIENTNETS[variant]
    factor = form.width if width is None else width
    if not 0 < factor < math.inf:
        raise ValueError(f"efficientnet(width={width!r}): the factor of the channels must be positive, such as 1.0.")
    rate = form.dropout if dropout is None else dropout
    return EfficientNet(form.depth, factor, norm, in_channels, num_classes, stem == "small", rate, stochastic_depth)


class EfficientNet(nn.Module):
    """Stem, stages of `InvertedBottleneck`, a last convolution, average, dropout, classifier; see `efficientnet`."""

    def __init__(
        self,
        depth: float,
        width: float,
        norm: Norm,
        in_channels: int,
        num_classes: int,
        small: bool,
        dropout: float,
        stochastic_depth: float,
    ) -> None:
        super().__init__()
        channels = in_eighths(STEM, width)
        self.stem = nn.Sequential(_conv_norm(in_channels, channels, 3, 1 if small else 2, 1, norm, active=True))
        counts = [math.ceil(depth * count) for *_, count in STAGES]
        stages: OrderedDict[str, nn.Module] = OrderedDict()
        index = 0
        for number, ((expansion, kernel, stride, outputs, _), count) in enumerate(
            zip(STAGES, counts, strict=True), start=1
        ):
            blocks = nn.Sequential()
            outputs = in_eighths(outputs, width)
            for i in range(count):
                drop = stochastic_depth * index / sum(counts)
                blocks.append(InvertedBottleneck(channels, outputs, expansion, kernel, 1 if i else stride, norm, drop))
                channels, index = outputs, index + 1
            stages[f"stage{number}"] = blocks
        self.stages = nn.Sequential(stages)
        last = in_eighths(LAST, width)
        self.head = nn.Sequential(_conv_norm(channels, last, 1, 1, 1, norm, active=True))
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(last, num_classes)
        nn.init.uniform_(self.classifier.weight, -(num_classes**-0.5), num_classes**-0.5)
        nn.init.zeros_(self.classifier.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.dropout(self.head(self.stages(self.stem(x))).mean((2, 3))))


class InvertedBottleneck(nn.Module):
    """Widen by a 1×1 convolution, convolve depthwise, squeeze-excite, narrow again; plus x if the shape is kept."""

    def __init__(
        self, inputs: int, outputs: int, expansion: int, kernel: int, stride: int, norm: Norm, drop: float
    ) -> None:
        super().__init__()
        inner = expansion * inputs
        parts: OrderedDict[str, nn.Module] = OrderedDict()
        if expansion > 1:
            parts.update(_conv_norm(inputs, inner, 1, 1, 1, norm, active=True, name="_expand"))
        parts.update(_conv_norm(inner, inner, kernel, stride, inner, norm, active=True))
        parts["squeeze_excite"] = SqueezeExciteSilu(inner, max(1, int(inputs * SQUEEZE_RATIO)))
        parts.update(_conv_norm(inner, outputs, 1, 1, 1, norm, active=False, name="_project"))
        self.branch = nn.Sequential(parts)
        self.stays = stride == 1 and inputs == outputs
        self.stochastic_depth = StochasticDepth(drop, rescale=True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.branch(x)
        return x + self.stochastic_depth(y) if self.stays else y


class SqueezeExciteSilu(nn.Module):
    """Scale channels by a gate computed from their averages over space, with a SiLU inside; He's weights."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.reduce, self.expand = nn.Linear(channels, hidden), nn.Linear(hidden, channels)
        for layer in (self.reduce, self.expand):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out")
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        gate = self.expand(F.silu(self.reduce(x.mean((2, 3))))).sigmoid()
        return x * gate[:, :, None, None]


def in_eighths(channels: int, width: float) -> int:
    """Channels times a factor, rounded to a multiple of 8 that is never more than a tenth below.

    >>> in_eighths(32, 1.1), in_eighths(16, 0.25)
    (32, 8)
    """
    wanted = channels * width
    rounded = max(8, int(wanted + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * wanted else rounded


def _conv_norm(
    inputs: int, outputs: int, kernel: int, stride: int, groups: int, norm: Norm, *, active: bool, name: str = ""
) -> OrderedDict[str, nn.Module]:
    """A convolution, its normalizer and, if ``active``, a SiLU, by name."""
    layer = make_norm(norm, outputs)
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=isinstance(layer, nn.Identity))
    fan_out = kernel**2 * outputs // groups
    nn.init.normal_(conv.weight, std=math.sqrt(2 / fan_out))
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    if isinstance(layer, torch.nn.modules.batchnorm._BatchNorm):
        layer.momentum, layer.eps = MOMENTUM, EPS
    parts: OrderedDict[str, nn.Module] = OrderedDict({f"conv{name}": conv, f"norm{name}": layer})
    if active:
        parts[f"silu{name}"] = nn.SiLU()
    return parts
