"""Residual networks with any normalizer.

He et al. 2015, arXiv:1512.03385 (post-activation blocks) and He et al. 2016, arXiv:1603.05027 (pre-activation blocks).
"""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..layers import Norm, activates, make_norm
from .forms import BlockSizes, ResidualForm, Stem, check_sizes, checked_choice, residual_form

Fan = Literal["fan_in", "fan_out"]


class Layers(NamedTuple):
    """The initialization of a network's convolutions, and its normalizer."""

    norm: Norm
    fan: Fan

    def conv(self, inputs: int, outputs: int, kernel: int, stride: int = 1, *, bias: bool = False) -> nn.Conv2d:
        conv = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)
        nn.init.kaiming_normal_(conv.weight, mode=self.fan, nonlinearity="relu")
        if bias:
            # Added afterwards: nn.Conv2d would draw a random bias, and networks with and without normalizers
            # would no longer start from the same weights with the same seed.
            conv.bias = nn.Parameter(torch.zeros(outputs))
        return conv

    def normalizer(self, channels: int) -> nn.Module:
        return make_norm(self.norm, channels, rank=2)

    def conv_norm(self, inputs: int, outputs: int, kernel: int, stride: int) -> list[nn.Module]:
        layer = self.normalizer(outputs)
        return [self.conv(inputs, outputs, kernel, stride, bias=isinstance(layer, nn.Identity)), layer]


class PostActivationBlock(nn.Module):
    """`relu(branch(x) + shortcut(x))`, branch = conv, norm, relu, ..., conv, norm (ResNet v1)."""

    def __init__(self, sizes: BlockSizes, layers: Layers) -> None:
        super().__init__()
        branch: OrderedDict[str, nn.Module] = OrderedDict()
        for i, shape in enumerate(sizes.branch(), start=1):
            if i > 1:
                branch[f"relu{i - 1}"] = relu_behind(branch[f"norm{i - 1}"])
            branch[f"conv{i}"], branch[f"norm{i}"] = layers.conv_norm(*shape)
        self.branch = nn.Sequential(branch)
        self.shortcut = nn.Identity()
        if sizes.projects:
            conv, layer = layers.conv_norm(sizes.inputs, sizes.outputs, 1, sizes.stride)
            self.shortcut = nn.Sequential(OrderedDict(conv=conv, norm=layer))
        last = getattr(branch[f"norm{sizes.convolutions}"], "weight", None)
        if isinstance(last, Tensor):
            nn.init.zeros_(last)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.branch(x) + self.shortcut(x))


class PreActivationBlock(nn.Module):
    """`branch(y) + shortcut`, y = relu(norm(x)), branch = conv, norm, relu, ..., conv (ResNet v2).

    The shortcut is `x`, or a 1×1 convolution of `y` where the shape changes. With `relu_first` every norm comes after
    its relu.
    """

    def __init__(self, sizes: BlockSizes, layers: Layers, relu_first: bool) -> None:
        super().__init__()
        self.relu_first = relu_first
        self.norm1 = layers.normalizer(sizes.inputs)
        self.relu1 = nn.ReLU() if relu_first else relu_behind(self.norm1)
        bias = isinstance(self.norm1, nn.Identity)
        branch: OrderedDict[str, nn.Module] = OrderedDict()
        for i, shape in enumerate(sizes.branch(), start=1):
            if i > 1:
                branch.update(activated(layers.normalizer(shape[0]), relu_first, i))
            branch[f"conv{i}"] = layers.conv(*shape, bias=bias)
        self.branch = nn.Sequential(branch)
        projection = (sizes.inputs, sizes.outputs, 1, sizes.stride)
        self.shortcut = layers.conv(*projection, bias=bias) if sizes.projects else None

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm1(self.relu1(x)) if self.relu_first else self.relu1(self.norm1(x))
        return self.branch(y) + (x if self.shortcut is None else self.shortcut(y))


def activated(norm: nn.Module, relu_first: bool, number: int | str = "") -> OrderedDict[str, nn.Module]:
    """A normalizer and its relu, in the requested order."""
    if relu_first:
        return OrderedDict([(f"relu{number}", nn.ReLU()), (f"norm{number}", norm)])
    return OrderedDict([(f"norm{number}", norm), (f"relu{number}", relu_behind(norm))])


def relu_behind(norm: nn.Module) -> nn.Module:
    """The relu behind a normalizer, or an identity if the normalizer includes the activation."""
    return nn.Identity() if activates(norm) else nn.ReLU()


class ResNet(nn.Module):
    """`classifier(average over positions of head(stages(stem(x))))`; built by `resnet`."""

    def __init__(
        self,
        stem: nn.Sequential,
        stages: nn.Sequential,
        head: nn.Sequential,
        features: int,
        classes: int,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.stem = stem
        self.stages = stages
        self.head = head
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(features, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.dropout(self.head(self.stages(self.stem(x))).mean((2, 3))))


def resnet(
    depth: int,
    norm: Norm = "batch",
    in_channels: int = 3,
    num_classes: int = 10,
    stem: Stem | None = None,
    preactivation: bool = False,
    width: int | None = None,
    norm_after_relu: bool = False,
    fan: Fan = "fan_out",
) -> ResNet:
    """A residual network with the normalizer chosen by one argument.

    Two families. Depth 18, 26, 34, 50, 101, 152, 200, 288 and 600: four stages of width, 2·width, 4·width and 8·width
    channels (times 4 with bottleneck blocks, which all but 18 and 34 have; the stride sits on the 3×3 convolution),
    default width 64, default stem "imagenet" (7×7 convolution with stride 2, then 3×3 max-pooling with stride 2).
    Every other depth 6n+2 (8, 14, 20, 32, 44, 56, 110, ...): three stages of n basic blocks, default width 16,
    default stem "small" (3×3 convolution with stride 1). Shortcuts that change the shape are 1×1 convolutions.

    Input `[N, in_channels, H, W]` of any size, output `[N, num_classes]`.

    `norm` is a name ("batch", "group", "group:8", "instance", "layer", "none", ...), a class or a factory
    `channels -> Module`. Convolutions have a bias only where there is no normalizer. They start from He's
    normal initialization (over `fan`); with one `torch.manual_seed` all normalizers get the same convolutions and the
    same classifier. A normalizer that includes an activation (EvoNorm, FilterResponseNorm's threshold, `activation=`)
    has no ReLU behind it; the ReLU after an addition remains.

    With post-activation blocks the weight of the last normalizer of each branch starts at 0, for every normalizer
    (the recipe by which Wu & He 2018, arXiv:1803.08494, compare normalizers): each block starts as its
    shortcut, and the weight gets a gradient at once, since it multiplies a normalized signal. With pre-activation
    blocks it starts at 1: there `relu(0·x̂ + 0)` would have no gradient and the branch could not learn.

    `norm_after_relu` puts each normalizer of pre-activation blocks after its ReLU instead of before it, the order that
    Brock, De and Smith 2021, arXiv:2101.08692, compare with the usual one. Without a normalizer, `fan="fan_in"` is the
    initialization under which signals keep their size.

    Raises ValueError for a depth of neither family, an unknown stem, or a size that is not positive, and the errors of
    the normalizer for these channels.

    >>> sum(p.numel() for p in resnet(18, num_classes=1000).parameters())
    11689512
    >>> resnet(8, norm="none", in_channels=1)(torch.zeros(2, 1, 8, 8)).shape
    torch.Size([2, 10])
    """
    form = residual_form("resnet", depth, stem, width)
    check_sizes("resnet", in_channels=in_channels, num_classes=num_classes)
    if norm_after_relu and not preactivation:
        raise ValueError("resnet(norm_after_relu=True) is an order of pre-activation blocks; add preactivation=True.")
    layers = Layers(norm, checked_choice("resnet", "fan", fan, ("fan_in", "fan_out")))  # type: ignore[arg-type]
    entry = _stem(form, in_channels, layers, preactivation)
    stages = string_together(
        form,
        lambda sizes, _: (
            PreActivationBlock(sizes, layers, norm_after_relu) if preactivation else PostActivationBlock(sizes, layers)
        ),
    )
    head = activated(layers.normalizer(form.features), norm_after_relu) if preactivation else OrderedDict()
    return ResNet(entry, stages, nn.Sequential(head), form.features, num_classes)


def string_together(form: ResidualForm, block: Callable[[BlockSizes, int], nn.Module]) -> nn.Sequential:
    """Stages named stage1, stage2, ...; `block` makes a block from its sizes and its index in the network."""
    stages: OrderedDict[str, nn.Module] = OrderedDict()
    index = itertools.count()
    for number, stage in enumerate(form.stages(), start=1):
        stages[f"stage{number}"] = nn.Sequential(*(block(sizes, next(index)) for sizes in stage))
    return nn.Sequential(stages)


def _stem(form: ResidualForm, in_channels: int, layers: Layers, preactivation: bool) -> nn.Sequential:
    conv, layer = layers.conv_norm(in_channels, form.width, *form.stem_window)
    stem: OrderedDict[str, nn.Module] = OrderedDict(conv=conv)
    if not preactivation:
        stem.update(norm=layer, relu=relu_behind(layer))
    return with_pool(stem, form)


def with_pool(stem: OrderedDict[str, nn.Module], form: ResidualForm) -> nn.Sequential:
    """The stem, with max-pooling at its end if the form has it."""
    if form.pools:
        stem.update(pool=nn.MaxPool2d(3, stride=2, padding=1))
    return nn.Sequential(stem)
