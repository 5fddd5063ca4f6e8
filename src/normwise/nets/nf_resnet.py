"""NF-ResNets: pre-activation residual networks without normalizers. Brock, De and Smith 2021, arXiv:2101.08692."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .forms import ResidualForm, Stem, residual_form
from .nf_net import BlockShape, NetShape, NormalizerFreeNet, StemConv
from .nf_parts import ActivationLike, Gamma, NFOptions, Padding, recipe_of

if TYPE_CHECKING:
    from typing_extensions import Unpack

SQUEEZE_RATIO = 0.25


class NFResNetOptions(NFOptions, total=False):
    """The options of `nf_resnet50` and the like, besides the numbers of classes and channels; see `nf_resnet`."""

    width: int | None
    squeeze_excite: bool
    standardize: bool


def nf_resnet(
    depth: int,
    num_classes: int = 1000,
    in_channels: int = 3,
    *,
    stem: Stem | None = None,
    width: int | None = None,
    activation: ActivationLike = "relu",
    gamma: Gamma = "exact",
    alpha: float = 0.2,
    skip_gain: float = 0.0,
    dropout: float | None = None,
    stochastic_depth: float = 0.1,
    squeeze_excite: bool = False,
    padding: Padding = "same",
    standardize: bool = True,
) -> NormalizerFreeNet:
    r"""A residual network without normalizers.

    .. math:: x_{l+1} = x_l + \alpha\, g_l\, f_l(\beta_l\, \gamma\, \operatorname{act}(x_l))

    The convolutions have scaled weight standardization, so that every branch f keeps variance 1. β divides by the
    expected standard deviation of x, each block adds α² to the variance, and the learnable g starts at
    ``skip_gain``. See `NormalizerFreeBlock`.

    Depth 18, 26, 34, 50, 101, 152, 200, 288 and 600: four stages, default width 64, default stem "imagenet" (7×7
    convolution with stride 2, then max-pooling); 18 and 34 have basic blocks of two 3×3 convolutions, the others
    bottlenecks. Every other depth 6n+2 (8, 14, 20, 32, 44, 56, 110, ...): three stages of n basic blocks for small
    images, default width 16, default stem "small" (3×3 convolution with stride 1). The paper has bottlenecks only.

    Input ``[N, in_channels, H, W]`` of any size, output ``[N, num_classes]``.

    Args:
        activation: a name ("relu", "silu", "gelu", ...) or a constructor of a module, such as ``torch.nn.PReLU``.
        gamma: the activation's gain, "exact" by quadrature or "official", the published Monte-Carlo table.
        skip_gain: with 0 every block starts as its shortcut; with 1 the paper plots the signal.
        dropout: on the averaged features; None is 0, the paper's value is not published.
        stochastic_depth: the rate at which the blocks' branches are dropped grows from 0 by equal steps and would
            reach this value after the last block; the survivors are not rescaled.
        squeeze_excite: at the end of each branch, hidden width a quarter of the channels.
        padding: of strided windows; "same" as in the official code (for an even side one extra zero at the end),
            "symmetric" as usual in PyTorch.
        standardize: False takes plain convolutions with He's initialization (times β) and γ = 1, to show the purpose of
            the standardization: without it the mean of the signal drifts away.

    Raises ValueError for a depth of neither family, unknown names and sizes that are not positive.

    Source: Brock, De and Smith 2021, arXiv:2101.08692, and the authors' code.

    Trap: the last term of a stage is not 1: the first block of the next stage resets the variance, so at skip gain 1
    it runs 1.04, 1.08, 1.12 | 1.04, ... Max-pooling changes the variance of the stem's output; the first block
    corrects that.

    >>> net = nf_resnet(50)
    >>> sum(p.numel() for p in net.parameters())
    25557048
    """
    form = residual_form("nf_resnet", depth, stem, width)
    recipe = recipe_of("nf_resnet", activation, gamma, padding, alpha, skip_gain, standardize=standardize)
    shape = _shape(form, squeeze_excite)
    return NormalizerFreeNet(
        shape, recipe, in_channels, num_classes, dropout or 0.0, stochastic_depth, classifier_std=0.01
    )


def _shape(form: ResidualForm, squeeze_excite: bool) -> NetShape:
    kernels = (1, 3, 1) if form.convolutions == 3 else (3, 3)
    stages = []
    for stage in form.stages():
        squeeze = max(1, int(stage[0].outputs * SQUEEZE_RATIO)) if squeeze_excite else 0
        stages.append(tuple(BlockShape(b.inputs, b.outputs, b.width, kernels, b.stride, 1, squeeze) for b in stage))
    return NetShape((StemConv(form.width, *form.stem_window),), form.pools, tuple(stages))


def nf_resnet26(num_classes: int = 1000, in_channels: int = 3, **options: Unpack[NFResNetOptions]) -> NormalizerFreeNet:
    """NF-ResNet-26; see `nf_resnet`."""
    return nf_resnet(26, num_classes, in_channels, **options)


def nf_resnet50(num_classes: int = 1000, in_channels: int = 3, **options: Unpack[NFResNetOptions]) -> NormalizerFreeNet:
    """NF-ResNet-50; see `nf_resnet`."""
    return nf_resnet(50, num_classes, in_channels, **options)


def nf_resnet101(
    num_classes: int = 1000, in_channels: int = 3, **options: Unpack[NFResNetOptions]
) -> NormalizerFreeNet:
    """NF-ResNet-101; see `nf_resnet`."""
    return nf_resnet(101, num_classes, in_channels, **options)


def nf_resnet152(
    num_classes: int = 1000, in_channels: int = 3, **options: Unpack[NFResNetOptions]
) -> NormalizerFreeNet:
    """NF-ResNet-152; see `nf_resnet`."""
    return nf_resnet(152, num_classes, in_channels, **options)


def nf_resnet200(
    num_classes: int = 1000, in_channels: int = 3, **options: Unpack[NFResNetOptions]
) -> NormalizerFreeNet:
    """NF-ResNet-200; see `nf_resnet`."""
    return nf_resnet(200, num_classes, in_channels, **options)


def nf_resnet288(
    num_classes: int = 1000, in_channels: int = 3, **options: Unpack[NFResNetOptions]
) -> NormalizerFreeNet:
    """NF-ResNet-288; see `nf_resnet`."""
    return nf_resnet(288, num_classes, in_channels, **options)
