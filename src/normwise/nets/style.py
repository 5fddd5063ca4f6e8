"""Networks for style transfer: a picture in, the same picture in a style out."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..core.numbers import check_whole
from ..functional.adaptive import Style, style_statistics
from ..layers import AdaptiveInstanceNorm, ConditionalInstanceNorm2d, Norm, make_norm
from .resnet import relu_behind
from .vgg import up_to

#: Sizes of the inputs of `StyleNet` must be multiples of this.
REDUCTION = 4


class StyleNet(nn.Module):
    """The feed-forward network of fast style transfer, for one style or for many.

    ``paint(residual blocks(down(x)))``: a 9×9 convolution, two of stride 2, residual blocks at a quarter of the size,
    two of nearest-neighbour upsampling and 3×3 convolution, and a 9×9 convolution with a sigmoid. Each but the last
    has a normalizer. Borders are mirrored.

    Args:
        norm: the normalizer; any name, class or factory of `make_norm`. Ignored with ``styles``.
        width: channels at full resolution; 2 and 4 times as many below.
        blocks: residual blocks.
        styles: the number of styles of one net. Its normalizers are then `ConditionalInstanceNorm2d`, and all other
            weights are shared.

    ``forward(x, condition=None)``: ``x`` is ``[N, 3, H, W]``, RGB in [0, 1], H and W multiples of 4 and at least 12;
    the result is of the same shape. ``condition`` are labels ``[N]`` or weights ``[N, styles]``, for nets of many
    styles.

    ``for_style(condition)`` is the plain net of one style of many, or of a blend, which `normwise.tiles` can run.

    Sources: Johnson, Alahi and Li 2016, arXiv:1603.08155; Ulyanov, Vedaldi and Lempitsky 2016, arXiv:1607.08022
    (instance normalization); Dumoulin, Shlens and Kudlur 2016, arXiv:1610.07629 (many styles, upsampling). Deviations:
    a sigmoid, so that the output is a picture without clipping; and skip connections at half the size, as in a U-Net,
    which make the net learn shapes in hundreds of steps instead of thousands.

    >>> net = StyleNet(width=4, blocks=1, styles=3)
    >>> x = torch.rand(2, 3, 16, 24)
    >>> y = net(x, torch.tensor([2, 0]))
    >>> torch.allclose(net.for_style(2)(x)[0], y[0], atol=1e-6)
    True
    """

    def __init__(self, norm: Norm = "instance", width: int = 32, blocks: int = 5, styles: int | None = None) -> None:
        super().__init__()
        check_whole(self, "width", width, 1)
        check_whole(self, "blocks", blocks, 0)
        self.styles = styles
        norm_or_styles = norm if styles is None else styles
        w = width
        self.down = nn.ModuleList(
            [
                _Stage(3, w, 9, norm_or_styles),
                _Stage(w, 2 * w, 3, norm_or_styles, stride=2),
                _Stage(2 * w, 4 * w, 3, norm_or_styles, stride=2),
            ]
        )
        self.blocks = nn.ModuleList(_Block(4 * w, norm_or_styles) for _ in range(blocks))
        self.up = nn.ModuleList(
            [_Stage(4 * w, 2 * w, 3, norm_or_styles, up=True), _Stage(2 * w, w, 3, norm_or_styles, up=True)]
        )
        self.paint = _conv(w, 3, 9)

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        if (condition is None) != (self.styles is None):
            raise ValueError(
                f"StyleNet: a net of {self.styles or 'one'} style{'s' if self.styles else ''} takes "
                f"{'a condition' if self.styles else 'no condition'}, received {condition!r}."
            )
        first, half, quarter = self.down
        beside = half(first(x, condition), condition)
        x = quarter(beside, condition)
        for layer in self.blocks:
            x = layer(x, condition)
        enlarged, whole = self.up
        return torch.sigmoid(self.paint(whole(enlarged(x, condition) + beside, condition)))

    def for_style(self, condition: int | Tensor) -> StyleNet:
        """The net of one style, a label, or of a blend by weights ``[styles]``, with its own parameters."""
        if self.styles is None:
            raise ValueError("StyleNet.for_style: this net has one style; it is that style's net.")
        plain = copy.deepcopy(self)
        for layer in plain.modules():
            if isinstance(layer, _Stage):
                assert isinstance(layer.norm, ConditionalInstanceNorm2d)
                layer.norm = layer.norm.fold(condition)
        plain.styles = None
        return plain


class _Stage(nn.Module):
    """``relu(norm(conv(x)))``, with an upsampling before it if ``up``, and without the relu if not ``relu``."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        norm: Norm | int,
        *,
        stride: int = 1,
        up: bool = False,
        relu: bool = True,
    ) -> None:
        super().__init__()
        self.up = nn.Upsample(scale_factor=2) if up else nn.Identity()
        self.conv = _conv(inputs, outputs, kernel, stride)
        many = isinstance(norm, int)
        self.norm = ConditionalInstanceNorm2d(outputs, norm) if many else make_norm(norm, outputs)
        self.relu = relu_behind(self.norm) if relu else nn.Identity()

    def forward(self, x: Tensor, condition: Tensor | None) -> Tensor:
        x = self.conv(self.up(x))
        return self.relu(self.norm(x) if condition is None else self.norm(x, condition))


class _Block(nn.Module):
    """``x + stage(stage(x))``, the second without a relu."""

    def __init__(self, channels: int, norm: Norm | int) -> None:
        super().__init__()
        self.first = _Stage(channels, channels, 3, norm)
        self.second = _Stage(channels, channels, 3, norm, relu=False)

    def forward(self, x: Tensor, condition: Tensor | None) -> Tensor:
        return x + self.second(self.first(x, condition), condition)


def _conv(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, padding_mode="reflect")


class AdaptiveStyleNet(nn.Module):
    """Any style by adaptive instance normalization: ``decoder(AdaIN(encoder(content), encoder(style)))``.

    The encoder is a copy of a trained trunk, such as `vgg_trunk` up to ``relu3_1``. It is not trained; its borders
    are mirrored, since the trunk's zeros would show as a frame. The decoder is its mirror image without normalizers,
    and only the decoder is trained.

    ``forward(content, style, strength=1.0)``: RGB in [0, 1], sizes of the content multiples of the trunk's reduction;
    ``style`` is a picture ``[N, 3, *]`` or a result of `statistics`. ``strength`` is the share of the style's
    statistics against the content's own, 0 to 1.

    ``for_style(statistics)`` is the plain net of one style, which `normwise.tiles` can run.

    Source: Huang and Belongie 2017, arXiv:1703.06868, with its decoder: reflection padding, nearest upsampling.

    >>> from normwise.nets import vgg_trunk
    >>> net = AdaptiveStyleNet(vgg_trunk((1, 1), width=4), "relu2_1")
    >>> content, style = torch.rand(1, 3, 16, 16), torch.rand(1, 3, 20, 12)
    >>> y = net(content, style)
    >>> torch.allclose(net.for_style(net.statistics(style))(content), y, atol=1e-5)
    True
    """

    def __init__(self, trunk: nn.Sequential, layer: str = "relu3_1") -> None:
        super().__init__()
        self.encoder = copy.deepcopy(up_to(trunk, layer)).requires_grad_(False)
        for module in self.encoder:
            if isinstance(module, nn.Conv2d):
                module.padding_mode = "reflect"
        self.adapt = AdaptiveInstanceNorm()
        self.decoder = _mirrored(self.encoder)
        self.reduction = 2 ** sum(isinstance(module, nn.MaxPool2d) for module in self.encoder)

    def forward(self, content: Tensor, style: Tensor | Style, strength: float = 1.0) -> Tensor:
        maps = self.encoder(content)
        style = self.statistics(style) if isinstance(style, Tensor) else style
        return self.decoder(torch.lerp(maps, self.adapt(maps, style), strength))

    @torch.no_grad()
    def calibrate(self, pictures: Tensor) -> None:
        """Before training: scale the decoder's input by the root mean square of the encoder's maps on pictures."""
        self.decoder.get_submodule("0").unit.copy_(self.encoder(pictures).square().mean().sqrt())  # type: ignore[operator]

    def statistics(self, picture: Tensor) -> Style:
        """Mean and standard deviation of the encoder's maps of a picture ``[N, 3, H, W]``."""
        return style_statistics(self.encoder(picture))

    def for_style(self, style: Style, strength: float = 1.0) -> nn.Sequential:
        """The plain net of one style, a batch of one; it shares the encoder and the decoder."""
        return nn.Sequential(self.encoder, _Adapted(self.adapt.fold(style), strength), self.decoder)


class _Units(nn.Module):
    """``x / unit``, since trunks differ in the size of their maps by factors of hundreds."""

    unit: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("unit", torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        return x / self.unit


class _Adapted(nn.Module):
    """``strength · norm(x) + (1 - strength) · x``, in one pass of the normalizer."""

    def __init__(self, norm: nn.Module, strength: float) -> None:
        super().__init__()
        self.norm, self.rest = norm, 1 - strength
        with torch.no_grad():
            for parameter in norm.parameters():
                parameter.mul_(strength)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x, residual=self.rest * x) if self.rest else self.norm(x)


def _mirrored(encoder: Sequence[nn.Module] | nn.Sequential) -> nn.Sequential:
    """Convolutions and upsamplings from the deepest layer back to the picture."""
    layers: list[nn.Module] = [_Units()]
    for module in reversed(list(encoder)):
        if isinstance(module, nn.MaxPool2d):
            layers.append(nn.Upsample(scale_factor=2))
        elif isinstance(module, nn.Conv2d):
            conv = _conv(module.out_channels, module.in_channels, 3)
            # Without normalizers torch's default initialization would reduce the signal in every layer.
            nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
            nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
            layers += [conv, nn.ReLU()]
    return nn.Sequential(*layers[:-1], nn.Sigmoid())
