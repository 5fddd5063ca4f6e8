"""The convolutional trunk of VGG: the network whose features define the losses of style transfer."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn

#: Channels of the five blocks, in multiples of the first block's.
GROWTH = (1, 2, 4, 8, 8)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class PixelScale(nn.Module):
    """``(x - mean) / std`` by channel: from RGB in [0, 1] to the range on which a network was trained."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float] = IMAGENET_MEAN, std: Sequence[float] = IMAGENET_STD) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std


def vgg_trunk(convolutions: Sequence[int] = (2, 2, 3, 3, 3), width: int = 64) -> nn.Sequential:
    """VGG's blocks of 3×3 convolutions, with 2×2 max pooling between them, without its classifier.

    Layers are named as in the papers: ``relu3_1`` is the first rectifier of the third block. Inputs are RGB in
    [0, 1], which the first layer, ``pixels``, scales. Weights are He's.

    Args: ``convolutions`` of each block: ``(2, 2, 3, 3, 3)`` is VGG-16, ``(2, 2, 4, 4, 4)`` VGG-19; ``width``, the
    channels of the first block.

    Source: Simonyan and Zisserman 2014, arXiv:1409.1556.

    >>> vgg_trunk((1, 1), width=4)(torch.rand(1, 3, 8, 8)).shape
    torch.Size([1, 8, 4, 4])
    """
    layers: OrderedDict[str, nn.Module] = OrderedDict(pixels=PixelScale())
    channels = 3
    for block, (count, growth) in enumerate(zip(convolutions, GROWTH, strict=False), start=1):
        if block > 1:
            layers[f"pool{block - 1}"] = nn.MaxPool2d(2)
        for number in range(1, count + 1):
            conv = nn.Conv2d(channels, growth * width, 3, padding=1)
            nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
            nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
            layers[f"conv{block}_{number}"], layers[f"relu{block}_{number}"] = conv, nn.ReLU()
            channels = growth * width
    return nn.Sequential(layers)


def up_to(trunk: nn.Sequential, layer: str) -> nn.Sequential:
    """The trunk's layers up to one of them, shared with the trunk."""
    names = [name for name, _ in trunk.named_children()]
    if layer not in names:
        raise ValueError(f"There is no layer {layer!r} in this trunk; its layers: {', '.join(names)}.")
    wanted = names[: names.index(layer) + 1]
    return nn.Sequential(OrderedDict((name, trunk.get_submodule(name)) for name in wanted))
