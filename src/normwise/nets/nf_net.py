"""Normalizer-free residual networks: the block, and the network that strings blocks together.

The three families (`nf_resnet`, `nf_regnet`, `nfnet`) differ in shapes only. Brock, De and Smith 2021,
arXiv:2101.08692; Brock, De, Smith and Simonyan 2021, arXiv:2102.06171.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor, nn

from .forms import check_sizes
from .nf_parts import Recipe, SqueezeExcite
from .residual import SkipGain, StochasticDepth


class BlockShape(NamedTuple):
    """Sizes of one block. `squeeze` is the hidden width of its squeeze-excite; 0 means none.

    `kernels` are those of the branch, `width` its channels inside, `groups` those of its 3×3 convolutions. The
    first 3×3 convolution has the stride.
    """

    inputs: int
    outputs: int
    width: int
    kernels: tuple[int, ...] = (1, 3, 1)
    stride: int = 1
    groups: int = 1
    squeeze: int = 0
    squeeze_inside: bool = False


class StemConv(NamedTuple):
    """One convolution of a stem; activations stand between them, but not after the last."""

    channels: int
    kernel: int
    stride: int


@dataclass(frozen=True)
class NetShape:
    """Sizes of a network: the stem, whether max-pooling follows it, the stages, the last 1×1 convolution (0: none)."""

    stem: tuple[StemConv, ...]
    pool: bool
    stages: tuple[tuple[BlockShape, ...], ...]
    final: int = 0


class NormalizerFreeBlock(nn.Module):
    r"""A residual block whose input, branch and output have known variances at initialization.

    .. math::
        y = \gamma \beta f(x), \qquad
        x' = \text{shortcut} + \alpha\, g\, b\, \text{branch}(y)

    with shortcut = x, or a 1×1 convolution of y where the shape changes; b is `StochasticDepth`, g the `SkipGain`.
    β = 1 / (expected standard deviation of x), after the activation as in the official code; the paper's text
    writes f(βx), which is the same for relu only. γβ is a factor of the convolutions that read y (their ``gamma``), as
    is γ of those after the inner activations: the same function as a product with the maps, without a pass over them.

    ``[N, inputs, H, W]`` to ``[N, outputs, ceil(H / stride), ceil(W / stride)]``. ``alpha`` is used in forward;
    ``beta`` records the value with which the block was built.
    """

    def __init__(self, shape: BlockShape, recipe: Recipe, beta: float, drop: float) -> None:
        super().__init__()
        self.alpha, self.beta = recipe.alpha, beta
        self.activation = recipe.activation()
        self.branch = nn.Sequential(_branch(shape, recipe, beta))
        self.shortcut = _shortcut(shape, recipe, beta)
        self.stochastic_depth = StochasticDepth(drop)
        self.skip_gain = SkipGain(recipe.skip_gain)

    def forward(self, x: Tensor) -> Tensor:
        y = self.activation(x)
        shortcut = x if self.shortcut is None else self.shortcut(y)
        return shortcut + self.alpha * self.skip_gain(self.stochastic_depth(self.branch(y)))

    def extra_repr(self) -> str:
        return f"alpha={self.alpha:g}, beta={self.beta:.6g}"


def _branch(shape: BlockShape, recipe: Recipe, beta: float) -> OrderedDict[str, nn.Module]:
    """The layers of a block's branch, by name."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    inputs, last, strided = shape.inputs, len(shape.kernels), shape.kernels.index(3) + 1
    for i, kernel in enumerate(shape.kernels, start=1):
        if i == last and shape.squeeze and shape.squeeze_inside:
            layers["squeeze_excite"] = SqueezeExcite(inputs, shape.squeeze)
        if i > 1:
            layers[f"activation{i - 1}"] = recipe.activation()
        outputs = shape.outputs if i == last else shape.width
        stride = shape.stride if i == strided else 1
        groups = shape.groups if kernel == 3 else 1
        scale = beta if i == 1 else 1.0
        recipe.add_conv(layers, f"conv{i}", inputs, outputs, kernel, stride, groups, recipe.gamma, scale)
        inputs = outputs
    if shape.squeeze and not shape.squeeze_inside:
        layers["squeeze_excite"] = SqueezeExcite(inputs, shape.squeeze)
    return layers


def _shortcut(shape: BlockShape, recipe: Recipe, beta: float) -> nn.Sequential | None:
    """The convolution of a block whose shape changes, preceded by an average if it has a stride; None otherwise."""
    if shape.stride == 1 and shape.inputs == shape.outputs:
        return None
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    stride = shape.stride
    if recipe.pooled_shortcut and stride > 1:
        # Averages over the values inside the picture: "same" padding of an average.
        layers["pool"] = nn.AvgPool2d(2, stride, ceil_mode=True, count_include_pad=False)
        stride = 1
    recipe.add_conv(layers, "conv", shape.inputs, shape.outputs, 1, stride, gamma=recipe.gamma, beta=beta)
    return nn.Sequential(layers)


class NormalizerFreeNet(nn.Module):
    r"""Stem, stages of `NormalizerFreeBlock`, an optional last convolution, activation, average, dropout, classifier.

    ``[N, in_channels, H, W]`` to ``[N, num_classes]``. Built by `nf_resnet`, `nf_regnet`, `nfnet` and `from_timm`.
    """

    def __init__(
        self,
        shape: NetShape,
        recipe: Recipe,
        in_channels: int,
        num_classes: int,
        dropout: float,
        stochastic_depth: float,
        classifier_std: float,
    ) -> None:
        super().__init__()
        check_sizes(type(self).__name__, in_channels=in_channels, num_classes=num_classes)
        self.stem = nn.Sequential(_stem(shape, recipe, in_channels))
        self.stages = nn.Sequential(_stages(shape.stages, recipe, stochastic_depth))
        features = shape.stages[-1][-1].outputs
        final: OrderedDict[str, nn.Module] = OrderedDict()
        if shape.final:
            recipe.add_conv(final, "conv", features, shape.final, 1)
            features = shape.final
        self.final = nn.Sequential(final)
        self.activation = recipe.activation()
        self.gamma = recipe.gamma if recipe.standardize else 1.0
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(features, num_classes)
        nn.init.normal_(self.classifier.weight, std=classifier_std)
        nn.init.zeros_(self.classifier.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = self.activation(self.final(self.stages(self.stem(x))))
        return self.classifier(self.dropout(self.gamma * x.mean((2, 3))))


def _stem(shape: NetShape, recipe: Recipe, in_channels: int) -> OrderedDict[str, nn.Module]:
    """The layers of a network's stem, by name."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    inputs, names = in_channels, [f"conv{i}" for i in range(1, len(shape.stem) + 1)]
    for i, (conv, name) in enumerate(zip(shape.stem, names, strict=True)):
        if i > 0:
            layers[f"activation{i}"] = recipe.activation()
        gamma = recipe.gamma if i > 0 else 1.0
        recipe.add_conv(layers, name, inputs, conv.channels, conv.kernel, conv.stride, gamma=gamma)
        inputs = conv.channels
    if shape.pool:
        recipe.add_pool(layers)
    return layers


def _stages(
    stages: Sequence[Sequence[BlockShape]], recipe: Recipe, stochastic_depth: float
) -> OrderedDict[str, nn.Module]:
    """Blocks with the β of their expected input, and a drop rate that grows from 0 by equal steps.

    The variance grows by α² with each block. A stage's first block receives the variance that the stage before has
    accumulated, and its shortcut resets it to 1: after that block the variance is 1 + α².
    """
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    variance, index, count = 1.0, 0, sum(map(len, stages))
    for number, stage in enumerate(stages, start=1):
        blocks = nn.Sequential()
        for position, shape in enumerate(stage):
            blocks.append(NormalizerFreeBlock(shape, recipe, variance**-0.5, stochastic_depth * index / count))
            variance = (1.0 if position == 0 else variance) + recipe.alpha**2
            index += 1
        layers[f"stage{number}"] = blocks
    return layers
