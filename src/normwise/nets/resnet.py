"""Residual networks with any normalizer.

He et al. 2015, arXiv:1512.03385 (post-activation blocks) and He et al. 2016, arXiv:1603.05027 (pre-activation blocks).
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..layers import Norm, make_norm

# Depth: convolutions per block, blocks per stage.
IMAGENET_FORM = {
    18: (2, (2, 2, 2, 2)),
    34: (2, (3, 4, 6, 3)),
    50: (3, (3, 4, 6, 3)),
    101: (3, (3, 4, 23, 3)),
    152: (3, (3, 8, 36, 3)),
}
BOTTLENECK_EXPANSION = 4


def _conv(inputs: int, outputs: int, kernel: int, stride: int = 1, *, bias: bool = False) -> nn.Conv2d:
    conv = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    if bias:
        # Added afterwards: nn.Conv2d would draw a random bias, and nets with and without normalizers
        # would no longer start from the same weights under the same seed.
        conv.bias = nn.Parameter(torch.zeros(outputs))
    return conv


def _conv_norm(inputs: int, outputs: int, kernel: int, stride: int, norm: Norm) -> list[nn.Module]:
    layer = make_norm(norm, outputs, rank=2)
    return [_conv(inputs, outputs, kernel, stride, bias=isinstance(layer, nn.Identity)), layer]


def _branch_shapes(inputs: int, width: int, stride: int, convolutions: int) -> list[tuple[int, int, int, int]]:
    """(inputs, outputs, kernel, stride) of each convolution of a basic (2) or bottleneck (3) branch."""
    if convolutions == 2:
        return [(inputs, width, 3, stride), (width, width, 3, 1)]
    return [(inputs, width, 1, 1), (width, width, 3, stride), (width, width * BOTTLENECK_EXPANSION, 1, 1)]


class PostActivationBlock(nn.Module):
    """`relu(branch(x) + shortcut(x))`, branch = conv, norm, relu, ..., conv, norm (ResNet v1)."""

    def __init__(self, inputs: int, width: int, stride: int, convolutions: int, norm: Norm) -> None:
        super().__init__()
        branch: OrderedDict[str, nn.Module] = OrderedDict()
        outputs = inputs
        for i, shape in enumerate(_branch_shapes(inputs, width, stride, convolutions), start=1):
            if i > 1:
                branch[f"relu{i - 1}"] = nn.ReLU()
            branch[f"conv{i}"], branch[f"norm{i}"] = _conv_norm(*shape, norm)
            outputs = shape[1]
        self.branch = nn.Sequential(branch)
        self.shortcut = nn.Identity()
        if stride != 1 or inputs != outputs:
            conv, layer = _conv_norm(inputs, outputs, 1, stride, norm)
            self.shortcut = nn.Sequential(OrderedDict(conv=conv, norm=layer))
        last = getattr(branch[f"norm{convolutions}"], "weight", None)
        if isinstance(last, Tensor):
            nn.init.zeros_(last)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.branch(x) + self.shortcut(x))


class PreActivationBlock(nn.Module):
    """`branch(y) + shortcut`, y = relu(norm(x)), branch = conv, norm, relu, ..., conv (ResNet v2).

    The shortcut is `x`, or a 1×1 convolution of `y` where the shape changes.
    """

    def __init__(self, inputs: int, width: int, stride: int, convolutions: int, norm: Norm) -> None:
        super().__init__()
        self.norm1 = make_norm(norm, inputs, rank=2)
        bias = isinstance(self.norm1, nn.Identity)
        branch: OrderedDict[str, nn.Module] = OrderedDict()
        outputs = inputs
        for i, shape in enumerate(_branch_shapes(inputs, width, stride, convolutions), start=1):
            if i > 1:
                branch[f"norm{i}"], branch[f"relu{i}"] = make_norm(norm, shape[0], rank=2), nn.ReLU()
            branch[f"conv{i}"] = _conv(*shape, bias=bias)
            outputs = shape[1]
        self.branch = nn.Sequential(branch)
        project = stride != 1 or inputs != outputs
        self.shortcut = _conv(inputs, outputs, 1, stride, bias=bias) if project else None

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norm1(x))
        return self.branch(y) + (x if self.shortcut is None else self.shortcut(y))


class ResNet(nn.Module):
    """`classifier(average over positions of head(stages(stem(x))))`; built by `resnet`."""

    def __init__(
        self, stem: nn.Sequential, stages: OrderedDict[str, nn.Module], head: nn.Sequential, features: int, classes: int
    ) -> None:
        super().__init__()
        self.stem = stem
        self.stages = nn.Sequential(stages)
        self.head = head
        self.classifier = nn.Linear(features, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.head(self.stages(self.stem(x))).mean((2, 3)))


def resnet(
    depth: int,
    norm: Norm = "batch",
    in_channels: int = 3,
    classes: int = 10,
    stem: Literal["small", "imagenet"] | None = None,
    preactivation: bool = False,
    width: int | None = None,
) -> ResNet:
    """A residual network with the normalizer chosen by one argument.

    Two families. Depth 18, 34, 50, 101 and 152: four stages of width, 2·width, 4·width and 8·width channels
    (times 4 with the bottleneck blocks of 50 and deeper; the stride sits on the 3×3 convolution), default width 64,
    default stem "imagenet" (7×7 convolution with stride 2, then 3×3 max-pooling with stride 2). Every other depth
    6n+2 (8, 14, 20, 26, 32, 44, 56, 110, ...): three stages of n basic blocks, default width 16, default stem
    "small" (3×3 convolution with stride 1). Shortcuts that change the shape are 1×1 convolutions.

    Input `[N, in_channels, H, W]` of any size, output `[N, classes]`.

    `norm` is a name ("batch", "group", "group:8", "instance", "layer", "none", ...), a class or a factory
    `channels -> Module`. Convolutions carry a bias only where there is no normalizer. Convolutions start from He's
    normal initialization (fan-out); under one `torch.manual_seed` all normalizers get the same convolutions and the
    same classifier.

    With post-activation blocks the weight of the last normalizer of each branch starts at 0, whichever normalizer
    it is (the recipe by which Wu & He 2018, arXiv:1803.08494, compare normalizers): each block starts as its
    shortcut, and the weight gets a gradient at once, since it multiplies a normalized signal. With pre-activation
    blocks it starts at 1: there `relu(0·x̂ + 0)` would have no gradient and the branch would stay dead.

    Raises ValueError for a depth of neither family, an unknown stem, or a size that is not positive, and whatever
    the normalizer raises for these channels.

    >>> sum(p.numel() for p in resnet(18, classes=1000).parameters())
    11689512
    >>> resnet(8, norm="none", in_channels=1)(torch.zeros(2, 1, 8, 8)).shape
    torch.Size([2, 10])
    """
    convolutions, blocks, default_width, default_stem = _form(depth)
    stem = default_stem if stem is None else stem
    if stem not in ("small", "imagenet"):
        raise ValueError(f"resnet(stem={stem!r}): the stem is 'small', 'imagenet' or None (the depth's usual one).")
    width = default_width if width is None else width
    for name, value in (("in_channels", in_channels), ("classes", classes), ("width", width)):
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"resnet({name}={value!r}): {name} must be a positive integer.")

    block = PreActivationBlock if preactivation else PostActivationBlock
    layers = _stem(stem, in_channels, width, norm, preactivation)
    channels = width
    stages: OrderedDict[str, nn.Module] = OrderedDict()
    for i, count in enumerate(blocks):
        stage = nn.Sequential()
        for j in range(count):
            stride = 2 if i > 0 and j == 0 else 1
            stage.append(block(channels, width * 2**i, stride, convolutions, norm))
            channels = width * 2**i * (BOTTLENECK_EXPANSION if convolutions == 3 else 1)
        stages[f"stage{i + 1}"] = stage
    head = OrderedDict(norm=make_norm(norm, channels, rank=2), relu=nn.ReLU()) if preactivation else OrderedDict()
    return ResNet(layers, stages, nn.Sequential(head), channels, classes)


def _form(depth: int) -> tuple[int, tuple[int, ...], int, Literal["small", "imagenet"]]:
    """Convolutions per block, blocks per stage, default width, default stem."""
    if isinstance(depth, int) and depth in IMAGENET_FORM:
        return (*IMAGENET_FORM[depth], 64, "imagenet")
    if isinstance(depth, int) and depth >= 8 and (depth - 2) % 6 == 0:
        return 2, ((depth - 2) // 6,) * 3, 16, "small"
    raise ValueError(
        f"resnet(depth={depth!r}): the depth must be 18, 34, 50, 101, 152 or 6n+2 (8, 14, 20, 32, 44, 56, 110, ...)."
    )


def _stem(stem: str, in_channels: int, width: int, norm: Norm, preactivation: bool) -> nn.Sequential:
    kernel, stride = (7, 2) if stem == "imagenet" else (3, 1)
    conv, layer = _conv_norm(in_channels, width, kernel, stride, norm)
    layers: OrderedDict[str, nn.Module] = OrderedDict(conv=conv)
    if not preactivation:
        layers.update(norm=layer, relu=nn.ReLU())
    if stem == "imagenet":
        layers.update(pool=nn.MaxPool2d(3, stride=2, padding=1))
    return nn.Sequential(layers)
