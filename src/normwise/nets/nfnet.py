"""NFNets: large normalizer-free networks. Brock, De, Smith and Simonyan 2021, arXiv:2102.06171."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from .forms import Stem, checked_choice
from .nf_net import BlockShape, NetShape, NormalizerFreeNet, StemConv
from .nf_parts import ActivationLike, Gamma, NFOptions, Padding, recipe_of

if TYPE_CHECKING:
    from typing_extensions import Unpack

WIDTHS = (256, 512, 1536, 1536)
DEPTHS = (1, 2, 6, 3)
GROUP_SIZE = 128
SQUEEZE_RATIO = 0.5


class NFNetVariant(NamedTuple):
    """Resolutions of training and test, dropout."""

    train_size: int
    test_size: int
    dropout: float


NFNETS = {
    "f0": NFNetVariant(192, 256, 0.2),
    "f1": NFNetVariant(224, 320, 0.3),
    "f2": NFNetVariant(256, 352, 0.4),
    "f3": NFNetVariant(320, 416, 0.4),
    "f4": NFNetVariant(384, 512, 0.5),
    "f5": NFNetVariant(416, 544, 0.5),
    "f6": NFNetVariant(448, 576, 0.5),
    "f7": NFNetVariant(480, 608, 0.5),
}


def nfnet(
    variant: str,
    num_classes: int = 1000,
    in_channels: int = 3,
    *,
    stem: Stem | None = None,
    activation: ActivationLike = "gelu_tanh",
    gamma: Gamma = "exact",
    alpha: float = 0.2,
    skip_gain: float = 0.0,
    dropout: float | None = None,
    stochastic_depth: float = 0.25,
    padding: Padding = "same",
) -> NormalizerFreeNet:
    """An NFNet, variant "f0" to "f7": the equation and the arguments are those of `nf_resnet`.

    Bottlenecks of half the channels with two 3×3 convolutions in groups of 128 channels and a squeeze-excite at the
    end; shortcuts average over 2×2 where the stride is 2; the stem has four 3×3 convolutions, of which the first and
    the last have stride 2 (``stem="small"``: none has); a 1×1 convolution and the activation follow the last stage.
    ``dropout=None`` is the variant's own. `NFNETS` lists the resolutions of training and test. Train it with adaptive
    gradient clipping.

    Source: Brock, De, Smith and Simonyan 2021, arXiv:2102.06171, and the authors' code, whose gelu is the tanh form.
    The rate of stochastic depth is that of their ImageNet configuration (the class's default is 0.1).

    >>> sum(p.numel() for p in nfnet("f0").parameters())
    71489284
    """
    checked_choice("nfnet", "variant", variant, tuple(NFNETS))
    stem = "imagenet" if stem is None else stem
    checked_choice("nfnet", "stem", stem, ("small", "imagenet"))
    recipe = recipe_of("nfnet", activation, gamma, padding, alpha, skip_gain, pooled_shortcut=True)
    dropout = NFNETS[variant].dropout if dropout is None else dropout
    shape = _shape(int(variant.removeprefix("f")) + 1, stem)
    return NormalizerFreeNet(shape, recipe, in_channels, num_classes, dropout, stochastic_depth, classifier_std=0.01)


def _shape(repeats: int, stem: Stem) -> NetShape:
    stride = 1 if stem == "small" else 2
    convs = (StemConv(16, 3, stride), StemConv(32, 3, 1), StemConv(64, 3, 1), StemConv(128, 3, stride))
    stages, inputs = [], convs[-1].channels
    for i, (outputs, depth) in enumerate(zip(WIDTHS, DEPTHS, strict=True)):
        stage = []
        for j in range(depth * repeats):
            groups = outputs // 2 // GROUP_SIZE
            stride = 2 if i > 0 and j == 0 else 1
            squeeze = int(outputs * SQUEEZE_RATIO)
            stage.append(BlockShape(inputs, outputs, outputs // 2, (1, 3, 3, 1), stride, groups, squeeze))
            inputs = outputs
        stages.append(tuple(stage))
    return NetShape(convs, False, tuple(stages), final=2 * inputs)


def nfnet_f0(num_classes: int = 1000, in_channels: int = 3, **options: Unpack[NFOptions]) -> NormalizerFreeNet:
    """NFNet-F0; see `nfnet`."""
    return nfnet("f0", num_classes, in_channels, **options)


def nfnet_f1(num_classes: int = 1000, in_channels: int = 3, **options: Unpack[NFOptions]) -> NormalizerFreeNet:
    """NFNet-F1; see `nfnet`."""
    return nfnet("f1", num_classes, in_channels, **options)


def nfnet_f2(num_classes: int = 1000, in_channels: int = 3, **options: Unpack[NFOptions]) -> NormalizerFreeNet:
    """NFNet-F2; see `nfnet`."""
    return nfnet("f2", num_classes, in_channels, **options)


def nfnet_f3(num_classes: int = 1000, in_channels: int = 3, **options: Unpack[NFOptions]) -> NormalizerFreeNet:
    """NFNet-F3; see `nfnet`."""
    return nfnet("f3", num_classes, in_channels, **options)


def nfnet_f4(num_classes: int = 1000, in_channels: int = 3, **options: Unpack[NFOptions]) -> NormalizerFreeNet:
    """NFNet-F4; see `nfnet`."""
    return nfnet("f4", num_classes, in_channels, **options)


def nfnet_f5(num_classes: int = 1000, in_channels: int = 3, **options: Unpack[NFOptions]) -> NormalizerFreeNet:
    """NFNet-F5; see `nfnet`."""
    return nfnet("f5", num_classes, in_channels, **options)


def nfnet_f6(num_classes: int = 1000, in_channels: int = 3, **options: Unpack[NFOptions]) -> NormalizerFreeNet:
    """NFNet-F6; see `nfnet`."""
    return nfnet("f6", num_classes, in_channels, **options)


def nfnet_f7(num_classes: int = 1000, in_channels: int = 3, **options: Unpack[NFOptions]) -> NormalizerFreeNet:
    """NFNet-F7; see `nfnet`."""
    return nfnet("f7", num_classes, in_channels, **options)
