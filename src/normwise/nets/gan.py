"""Small generative adversarial networks: pictures from noise, and pictures from pictures with a label."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..core.numbers import check_whole
from ..layers import Norm, make_norm
from ..weights import spectral_norm
from .resnet import relu_behind


class Generator(nn.Module):
    """Pictures from noise: a linear layer, and twice an upsampling and a 3×3 convolution, then a tanh.

    Args:
        latent: the number of random numbers for a picture.
        channels: of the pictures. side: of the pictures, a multiple of 4.
        width: channels before the last convolution; twice as many before that.
        norm: the normalizer behind each layer but the last; any name, class or factory of `make_norm`.
        spectral: whether each layer has `spectral_norm`.

    ``forward(z)``: ``[N, latent]`` to ``[N, channels, side, side]`` in (-1, 1).

    Source: Radford, Metz and Chintala 2015, arXiv:1511.06434, at a small size, with nearest-neighbour upsampling
    instead of transposed convolutions.

    >>> Generator(16, channels=1, side=8)(torch.randn(2, 16)).shape
    torch.Size([2, 1, 8, 8])
    """

    def __init__(
        self,
        latent: int = 32,
        channels: int = 1,
        side: int = 8,
        width: int = 32,
        norm: Norm = "batch",
        *,
        spectral: bool = False,
    ) -> None:
        super().__init__()
        for name, value in {"latent": latent, "channels": channels, "width": width}.items():
            check_whole(self, name, value, 1)
        _check_side(self, side)
        self.latent, self.start = latent, side // 4
        wrap = spectral_norm if spectral else _as_it_is
        self.expand = wrap(nn.Linear(latent, 2 * width * self.start**2))
        self.first = make_norm(norm, 2 * width)
        self.up = nn.ModuleList([_Up(2 * width, 2 * width, norm, spectral), _Up(2 * width, width, norm, spectral)])
        self.paint = wrap(nn.Conv2d(width, channels, 3, padding=1))

    def forward(self, z: Tensor) -> Tensor:
        x = self.expand(z).view(len(z), -1, self.start, self.start)
        x = F.relu(self.first(x))
        for layer in self.up:
            x = layer(x)
        return torch.tanh(self.paint(x))


class Discriminator(nn.Module):
    """How real a picture looks and, if requested, its class: three 3×3 convolutions and two linear outputs.

    Args:
        channels: of the pictures. side: of the pictures, a multiple of 4.
        width: channels behind the first convolution; twice and four times as many behind the others.
        spectral: whether each layer has `spectral_norm`, which bounds the slope of the whole.
        classes: the number of classes that it also predicts, or 0.

    ``forward(x)``: ``[N, channels, side, side]`` to the realness ``[N]``; with classes also ``[N, classes]``.
    There is no normalizer: BatchNorm would make the realness of a picture depend on the others.

    Sources: Miyato, Kataoka, Koyama and Yoshida 2018, arXiv:1802.05957 (spectral norm); Choi et al. 2017,
    arXiv:1711.09020 (StarGAN: the second output).

    >>> Discriminator(1, 8, spectral=True)(torch.randn(5, 1, 8, 8)).shape
    torch.Size([5])
    """

    def __init__(
        self, channels: int = 1, side: int = 8, width: int = 32, *, spectral: bool = False, classes: int = 0
    ) -> None:
        super().__init__()
        check_whole(self, "channels", channels, 1)
        check_whole(self, "width", width, 1)
        check_whole(self, "classes", classes, 0)
        _check_side(self, side)
        wrap = spectral_norm if spectral else _as_it_is
        sizes = ((channels, width, 1), (width, 2 * width, 2), (2 * width, 4 * width, 2))
        self.convolutions = nn.ModuleList(wrap(nn.Conv2d(a, b, 3, stride, padding=1)) for a, b, stride in sizes)
        features = 4 * width * (side // 4) ** 2
        self.realness = wrap(nn.Linear(features, 1))
        self.classes = wrap(nn.Linear(features, classes)) if classes else None

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        for convolution in self.convolutions:
            x = F.leaky_relu(convolution(x), 0.1)
        x = x.flatten(1)
        realness = self.realness(x)[:, 0]
        return realness if self.classes is None else (realness, self.classes(x))


class Translator(nn.Module):
    """Pictures from pictures and the wanted class: the generator of StarGAN at a small size.

    Two 3×3 convolutions, residual blocks, two more convolutions and a tanh; the label enters as maps beside the
    picture's. All but the last convolution have a normalizer.

    Args:
        classes: of pictures. channels: of the pictures. width: of all maps. blocks: the number of residual blocks.
        norm: the normalizer; any name, class or factory of `make_norm`. StarGAN has InstanceNorm.

    ``forward(x, label)``: ``[N, channels, H, W]`` and ``[N]`` to pictures of that class, in (-1, 1).

    Source: Choi et al. 2017, arXiv:1711.09020; here without strides, for pictures of few pixels.

    >>> Translator(3, norm="instance")(torch.zeros(2, 1, 8, 8), torch.tensor([0, 2])).shape
    torch.Size([2, 1, 8, 8])
    """

    def __init__(
        self, classes: int, channels: int = 1, width: int = 32, blocks: int = 2, norm: Norm = "instance"
    ) -> None:
        super().__init__()
        for name, value in {"classes": classes, "channels": channels, "width": width}.items():
            check_whole(self, name, value, 1)
        check_whole(self, "blocks", blocks, 0)
        self.classes = classes
        self.enter = nn.Sequential(_stage(channels + classes, width, norm), _stage(width, width, norm))
        self.blocks = nn.ModuleList(
            nn.Sequential(_stage(width, width, norm), *_normalized(width, width, norm)) for _ in range(blocks)
        )
        self.leave = nn.Sequential(_stage(width, width, norm), nn.Conv2d(width, channels, 3, padding=1))

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        told = F.one_hot(label, self.classes).to(x.dtype)[:, :, None, None].expand(-1, -1, *x.shape[2:])
        x = self.enter(torch.cat([x, told], 1))
        for block in self.blocks:
            x = x + block(x)
        return torch.tanh(self.leave(x))


class _Up(nn.Module):
    """``relu(norm(conv(upsampled x)))``."""

    def __init__(self, inputs: int, outputs: int, norm: Norm, spectral: bool) -> None:
        super().__init__()
        conv = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.conv = spectral_norm(conv) if spectral else conv
        self.norm = make_norm(norm, outputs)
        self.relu = relu_behind(self.norm)

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.norm(self.conv(F.interpolate(x, scale_factor=2.0))))


def _normalized(inputs: int, outputs: int, norm: Norm) -> tuple[nn.Module, nn.Module]:
    return nn.Conv2d(inputs, outputs, 3, padding=1), make_norm(norm, outputs)


def _stage(inputs: int, outputs: int, norm: Norm) -> nn.Sequential:
    conv, layer = _normalized(inputs, outputs, norm)
    return nn.Sequential(conv, layer, relu_behind(layer))


def _as_it_is(layer: nn.Module) -> nn.Module:
    return layer


def _check_side(module: nn.Module, side: int) -> None:
    check_whole(module, "side", side, 4)
    if side % 4:
        raise ValueError(
            f"{type(module).__name__}(side={side}): the side must be a multiple of 4, such as {side // 4 * 4}."
        )
