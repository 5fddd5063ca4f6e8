"""Residual networks whose initialization alone replaces normalizers: SkipInit and Fixup."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from normwise.core.symbols import as_node, is_symbol
from normwise.operations.saved import guarded

from .forms import BlockSizes, Stem, check_sizes, residual_form
from .residual import Scalar, SkipGain, StochasticDepth
from .resnet import Layers, ResNet, string_together, with_pool


class SkipInitBlock(nn.Module):
    """`shortcut + gain · branch(y)`, y = relu(x), branch = conv, relu, ..., conv; the gain starts at 0.

    The shortcut is `x`, or a 1×1 convolution of `y` where the shape changes.
    """

    def __init__(self, sizes: BlockSizes, drop: float) -> None:
        super().__init__()
        layers = Layers("none", "fan_in")
        branch: OrderedDict[str, nn.Module] = OrderedDict()
        for i, shape in enumerate(sizes.branch(), start=1):
            if i > 1:
                branch[f"relu{i - 1}"] = nn.ReLU()
            branch[f"conv{i}"] = layers.conv(*shape, bias=True)
        self.branch = nn.Sequential(branch)
        projection = (sizes.inputs, sizes.outputs, 1, sizes.stride)
        self.shortcut = layers.conv(*projection, bias=True) if sizes.projects else None
        self.stochastic_depth = StochasticDepth(drop)
        self.skip_gain = SkipGain()

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(x)
        shortcut = x if self.shortcut is None else self.shortcut(y)
        return shortcut + self.skip_gain(self.stochastic_depth(self.branch(y)))


class Shift(Scalar):
    """Adds one learnable scalar, initially 0."""

    bias: Tensor

    def __init__(self) -> None:
        super().__init__("bias", 0.0)

    def forward(self, x: Tensor) -> Tensor:
        return as_node(self, x) if is_symbol(x) else guarded(x + self.value(x), self.bias)


class Scale(Scalar):
    """Multiplies with one learnable scalar, initially 1."""

    scale: Tensor

    def __init__(self) -> None:
        super().__init__("scale", 1.0)

    def forward(self, x: Tensor) -> Tensor:
        return as_node(self, x) if is_symbol(x) else guarded(x * self.value(x), x, self.scale)


class FixupBlock(nn.Module):
    r"""`relu(branch(x) + shortcut)`: scalar shifts around every convolution, one scale at the end of the branch.

    With L blocks of m convolutions, all but the last start from He's normal (fan-out) times
    :math:`L^{-1/(2m-2)}`, the last from 0. The shortcut is `x`, or a 1×1 convolution of the shifted x.
    """

    def __init__(self, sizes: BlockSizes, blocks: int, drop: float) -> None:
        super().__init__()
        layers = Layers("none", "fan_out")
        self.shift = Shift()
        branch: OrderedDict[str, nn.Module] = OrderedDict()
        m = sizes.convolutions
        for i, shape in enumerate(sizes.branch(), start=1):
            if i > 1:
                branch.update({f"shift{i - 1}b": Shift(), f"relu{i - 1}": nn.ReLU(), f"shift{i}a": Shift()})
            conv = layers.conv(*shape)
            with torch.no_grad():
                conv.weight.mul_(0.0 if i == m else blocks ** (-1 / (2 * m - 2)))
            branch[f"conv{i}"] = conv
        self.branch = nn.Sequential(branch)
        projection = (sizes.inputs, sizes.outputs, 1, sizes.stride)
        self.shortcut = layers.conv(*projection) if sizes.projects else None
        self.scale = Scale()
        self.last_shift = Shift()
        self.stochastic_depth = StochasticDepth(drop)

    def forward(self, x: Tensor) -> Tensor:
        y = self.shift(x)
        # The identity is not shifted, as in the authors' code; a port differs.
        shortcut = x if self.shortcut is None else self.shortcut(y)
        return F.relu(shortcut + self.stochastic_depth(self.last_shift(self.scale(self.branch(y)))))


def skipinit_resnet(
    depth: int,
    num_classes: int = 1000,
    in_channels: int = 3,
    *,
    stem: Stem | None = None,
    width: int | None = None,
    dropout: float = 0.0,
    stochastic_depth: float = 0.1,
) -> ResNet:
    r"""A pre-activation residual network without normalizers, each branch times a scalar that starts at 0.

    .. math:: x_{l+1} = x_l + g_l\, f_l(\operatorname{relu}(x_l))

    Depth, stem and width: as `resnet`. ``dropout`` and ``stochastic_depth``: as `nf_resnet`. Convolutions have biases
    and start from He's normal (fan-in), the classifier from 0.

    Source: De and Smith 2020, arXiv:2002.10444. In the code that was released with arXiv:2101.08692 the convolutions
    start from variance 1 / fan-in instead.

    >>> skipinit_resnet(8, num_classes=10, in_channels=1)(torch.zeros(2, 1, 8, 8)).shape
    torch.Size([2, 10])
    """
    form = residual_form("skipinit_resnet", depth, stem, width)
    check_sizes("skipinit_resnet", num_classes=num_classes, in_channels=in_channels)
    conv = Layers("none", "fan_in").conv(in_channels, form.width, *form.stem_window)
    blocks = sum(form.blocks)
    stages = string_together(form, lambda sizes, i: SkipInitBlock(sizes, stochastic_depth * i / blocks))
    entry = with_pool(OrderedDict(conv=conv), form)
    head = nn.Sequential(OrderedDict(relu=nn.ReLU()))
    return _with_zero_classifier(ResNet(entry, stages, head, form.features, num_classes, dropout))


def fixup_resnet(
    depth: int,
    num_classes: int = 1000,
    in_channels: int = 3,
    *,
    stem: Stem | None = None,
    width: int | None = None,
    dropout: float = 0.0,
    stochastic_depth: float = 0.0,
) -> ResNet:
    r"""A post-activation residual network without normalizers whose initialization makes up for its depth.

    .. math:: x_{l+1} = \operatorname{relu}(x_l + s_l\, f_l(x_l + b_l) + b'_l)

    See `FixupBlock`. Depth, stem and width: as `resnet`. ``dropout`` and ``stochastic_depth``: as `nf_resnet`, and not
    in the original. The classifier starts from 0, the stem's convolution from PyTorch's default.

    Source: Zhang, Dauphin and Ma 2019, arXiv:1901.09321, and the first author's code for ImageNet; all shortcuts that
    change the shape are 1×1 convolutions (there, those for small images average and pad with zero channels).

    Trap: the scalars need a tenth of the learning rate.

    >>> fixup_resnet(8, num_classes=10, in_channels=1)(torch.zeros(2, 1, 8, 8)).shape
    torch.Size([2, 10])
    """
    form = residual_form("fixup_resnet", depth, stem, width)
    check_sizes("fixup_resnet", num_classes=num_classes, in_channels=in_channels)
    kernel, stride = form.stem_window
    conv = nn.Conv2d(in_channels, form.width, kernel, stride, padding=kernel // 2, bias=False)
    entry = with_pool(OrderedDict(conv=conv, shift=Shift(), relu=nn.ReLU()), form)
    blocks = sum(form.blocks)
    stages = string_together(form, lambda sizes, i: FixupBlock(sizes, blocks, stochastic_depth * i / blocks))
    head = nn.Sequential(OrderedDict(shift=Shift()))
    return _with_zero_classifier(ResNet(entry, stages, head, form.features, num_classes, dropout))


def _with_zero_classifier(net: ResNet) -> ResNet:
    nn.init.zeros_(net.classifier.weight)
    nn.init.zeros_(net.classifier.bias)
    return net
