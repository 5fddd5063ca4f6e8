"""Feature networks, which measure the content and the style of a picture."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import TypeVar

import torch
from torch import Tensor, nn

from ..errors import InputError
from ..nets.vgg import up_to

Net = TypeVar("Net", bound=nn.Module)

#: VGG's names: layers for the style, from fine to coarse, and the layer for the content, which keeps objects in place.
STYLE_LAYERS = ("relu1_1", "relu2_1", "relu3_1", "relu4_1")
CONTENT_LAYER = "relu3_1"
#: The smallest side of a picture that has a map after four poolings.
LEAST_SIDE = 16


def check_style(pixels: Tensor, name: str) -> None:
    """Raise InputError for a style picture ``[3, H, W]`` that is too small for the deepest maps."""
    height, width = pixels.shape[1:]
    if min(height, width) < LEAST_SIDE:
        raise InputError(f"{name} is {width}x{height} pixels; at least {LEAST_SIDE} on each side are needed.")


class Features:
    """The maps of a trained network by layer.

    ``style`` are the layers whose statistics describe a style, ``content`` is the layer whose map describes a content.
    ``trunk`` is that of a VGG, for nets that use it as their encoder, or None; ``description`` names the source of the
    weights, and ``trained`` is false for random ones.
    """

    def __init__(
        self,
        maps: Callable[[Tensor, Collection[str]], Mapping[str, Tensor]],
        style: tuple[str, ...],
        content: str,
        description: str,
        trunk: nn.Sequential | None = None,
        *,
        trained: bool = True,
    ) -> None:
        self._maps = maps
        self.layers = {*style, content}
        self.style, self.content = style, content
        self.description, self.trunk, self.trained = description, trunk, trained

    def __call__(self, x: Tensor, layers: Collection[str] | None = None) -> Mapping[str, Tensor]:
        """The maps of pictures ``[N, 3, H, W]``, RGB in [0, 1], fp32: of all style and content layers, or of some."""
        with mixed_precision():
            maps = self._maps(x.to(memory_format=torch.channels_last), self.layers if layers is None else layers)
        return {name: value.float() for name, value in maps.items()}


def mixed_precision() -> torch.autocast:
    """Inside the block convolutions use bf16 if the processor supports it: two to three times as fast."""
    return torch.autocast("cpu", torch.bfloat16, enabled=torch.cpu._is_avx512_bf16_supported())


def channels_last(net: Net) -> Net:
    """The net with its convolutions in the fastest memory layout for CPUs."""
    return net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def vgg_features(trunk: nn.Sequential, description: str, *, trained: bool = True) -> Features:
    """The features of a VGG trunk, which is frozen and cut off behind the deepest used layer."""
    names = {name for name, _ in trunk.named_children()}
    style = tuple(layer for layer in STYLE_LAYERS if layer in names)
    used = channels_last(up_to(trunk, style[-1]).eval().requires_grad_(False))
    content = CONTENT_LAYER if CONTENT_LAYER in style else style[-1]

    def maps(x: Tensor, layers: Collection[str]) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        for name, layer in used.named_children():
            x = layer(x)
            if name in layers:
                found[name] = x
                if len(found) == len(layers):
                    break
        return found

    return Features(maps, style, content, description, used, trained=trained)
