"""NF-RegNets: small normalizer-free networks with grouped convolutions. Brock, De and Smith 2021, arXiv:2101.08692."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from .forms import Stem, checked_choice
from .nf_net import BlockShape, NetShape, NormalizerFreeNet, StemConv
from .nf_parts import ActivationLike, Gamma, NFOptions, Padding, recipe_of

if TYPE_CHECKING:
    from typing_extensions import Unpack

WIDTH_FACTOR = 0.75
EXPANSION = 2.25
GROUP_SIZE = 8
SQUEEZE_RATIO = 0.5


class NFRegNetVariant(NamedTuple):
    """Widths before the factor ¾, blocks per stage, resolutions of training and test, dropout."""

    widths: tuple[int, int, int, int]
    depths: tuple[int, int, int, int]
    train_size: int
    test_size: int
    dropout: float


NF_REGNETS = {
    "b0": NFRegNetVariant((48, 104, 208, 440), (1, 3, 6, 6), 192, 224, 0.2),
    "b1": NFRegNetVariant((48, 104, 208, 440), (2, 4, 7, 7), 224, 256, 0.2),
    "b2": NFRegNetVariant((56, 112, 232, 488), (2, 4, 8, 8), 240, 272, 0.3),
    "b3": NFRegNetVariant((56, 128, 248, 528), (2, 5, 9, 9), 288, 320, 0.3),
    "b4": NFRegNetVariant((64, 144, 288, 616), (2, 6, 11, 11), 320, 384, 0.4),
    "b5": NFRegNetVariant((80, 168, 336, 704), (3, 7, 14, 14), 384, 456, 0.4),
    "b6": NFRegNetVariant((88, 184, 376, 792), (3, 8, 16, 16), 448, 528, 0.5),
    "b7": NFRegNetVariant((96, 208, 416, 880), (4, 10, 19, 19), 512, 600, 0.5),
    "b8": NFRegNetVariant((104, 232, 456, 968), (4, 11, 22, 22), 600, 672, 0.5),
}


def nf_regnet(
    variant: str,
    num_classes: int = 1000,
    in_channels: int = 3,
    *,
    stem: Stem | None = None,
    activation: ActivationLike = "silu",
    gamma: Gamma = "exact",
    alpha: float = 0.2,
    skip_gain: float = 0.0,
    dropout: float | None = None,
    stochastic_depth: float = 0.1,
    padding: Padding = "same",
) -> NormalizerFreeNet:
    """An NF-RegNet, variant "b0" to "b8": the equation and the arguments are those of `nf_resnet`.

    Every stage starts with stride 2, its shortcut with an average over 2×2. Branches expand the channels by 2.25
    (the very first by 1); their 3×3 convolution has groups of 8 channels and is followed by a squeeze-excite. A 1×1
    convolution and the activation follow the last stage. ``dropout=None`` is the variant's own. `NF_REGNETS` lists the
    resolutions of training and test. ``stem="small"`` gives the 3×3 convolution of the stem stride 1.

    Source: Brock, De and Smith 2021, arXiv:2101.08692, and the authors' code.

    Trap: timm's models of this name round channels to multiples of 8 and have further differences; `from_timm` builds
    those.

    >>> sum(p.numel() for p in nf_regnet("b0").parameters())
    8595372
    """
    checked_choice("nf_regnet", "variant", variant, tuple(NF_REGNETS))
    stem = "imagenet" if stem is None else stem
    checked_choice("nf_regnet", "stem", stem, ("small", "imagenet"))
    sizes = NF_REGNETS[variant]
    recipe = recipe_of("nf_regnet", activation, gamma, padding, alpha, skip_gain, pooled_shortcut=True)
    dropout = sizes.dropout if dropout is None else dropout
    shape = _shape(sizes, stem)
    return NormalizerFreeNet(shape, recipe, in_channels, num_classes, dropout, stochastic_depth, classifier_std=0.0)


def _shape(sizes: NFRegNetVariant, stem: Stem) -> NetShape:
    widths = [int(width * WIDTH_FACTOR) for width in sizes.widths]
    stages, inputs, expansion = [], widths[0], 1.0
    for outputs, count in zip(widths, sizes.depths, strict=True):
        stage = []
        for j in range(count):
            groups = int(inputs * expansion) // GROUP_SIZE
            width = groups * GROUP_SIZE
            squeeze = max(1, int(width * SQUEEZE_RATIO))
            stride = 2 if j == 0 else 1
            stage.append(BlockShape(inputs, outputs, width, (1, 3, 1), stride, groups, squeeze, squeeze_inside=True))
            inputs, expansion = outputs, EXPANSION
        stages.append(tuple(stage))
    first = StemConv(widths[0], 3, 1 if stem == "small" else 2)
    return NetShape((first,), False, tuple(stages), final=1280 * inputs // 440)


def nf_regnet_b0(num_classes: int = 1000, in_channels: int = 3, **options: Unpack[NFOptions]) -> NormalizerFreeNet:
    """NF-RegNet-B0; see `nf_regnet`."""
    return nf_regnet("b0", num_classes, in_channels, **options)


def nf_regnet_b1(num_classes: int = 1000, in_channels: int = 3, **options: Unpack[NFOptions]) -> NormalizerFreeNet:
    """NF-RegNet-B1; see `nf_regnet`."""
    return nf_regnet("b1", num_classes, in_channels, **options)


def nf_regnet_b2(num_classes: int = 1000, in_channels: int = 3, **options: Unpack[NFOptions]) -> NormalizerFreeNet:
    """NF-RegNet-B2; see `nf_regnet`."""
    return nf_regnet("b2", num_classes, in_channels, **options)


def nf_regnet_b3(num_classes: int = 1000, in_channels: int = 3, **options: Unpack[NFOptions]) -> NormalizerFreeNet:
    """NF-RegNet-B3; see `nf_regnet`."""
    return nf_regnet("b3", num_classes, in_channels, **options)


def nf_regnet_b4(num_classes: int = 1000, in_channels: int = 3, **options: Unpack[NFOptions]) -> NormalizerFreeNet:
    """NF-RegNet-B4; see `nf_regnet`."""
    return nf_regnet("b4", num_classes, in_channels, **options)


def nf_regnet_b5(num_classes: int = 1000, in_channels: int = 3, **options: Unpack[NFOptions]) -> NormalizerFreeNet:
    """NF-RegNet-B5; see `nf_regnet`."""
    return nf_regnet("b5", num_classes, in_channels, **options)
