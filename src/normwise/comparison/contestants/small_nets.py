"""A small net for each task: `mlp`, `unet`, `tagger`, `gpt`."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...layers import Norm, make_norm

_CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


def mlp(norm: Norm, in_channels: int, outputs: int, width: int = 64) -> nn.Module:
    """Two hidden layers for features ``[N, C]``."""
    sizes = [in_channels, width, width]
    layers = []
    for before, after in pairwise(sizes):
        layers += [nn.Linear(before, after), make_norm(norm, after, rank=1), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(width, outputs))


class UNet(nn.Module):
    """A U-Net of three resolutions for images ``[N, C, H, W]`` and volumes of any size (Ronneberger et al. 2015,
    arXiv:1505.04597), with padded convolutions and a normalizer behind each."""

    def __init__(self, norm: Norm, in_channels: int, classes: int, rank: int = 2, width: int = 8) -> None:
        super().__init__()
        self.pool = (nn.MaxPool2d if rank == 2 else nn.MaxPool3d)(2, ceil_mode=True)
        widths = [width, 2 * width, 4 * width]
        self.down = nn.ModuleList(
            _two(norm, before, after, rank) for before, after in zip([in_channels, *widths[:-1]], widths, strict=True)
        )
        self.up = nn.ModuleList(
            _two(norm, below + beside, beside, rank) for below, beside in ((widths[2], widths[1]), (widths[1], width))
        )
        self.classifier = _CONVOLUTIONS[rank](width, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        beside = []
        for i, block in enumerate(self.down):
            x = block(x if i == 0 else self.pool(x))
            beside.append(x)
        for block in self.up:
            skip = beside[-2]
            beside.pop()
            x = block(torch.cat([F.interpolate(x, size=skip.shape[2:], mode="nearest"), skip], 1))
        return self.classifier(x)


def _two(norm: Norm, inputs: int, outputs: int, rank: int) -> nn.Sequential:
    """Two convolutions, each with its normalizer."""
    convolution, layers = _CONVOLUTIONS[rank], []
    for channels in (inputs, outputs):
        layers += [convolution(channels, outputs, 3, padding=1), make_norm(norm, outputs, rank=rank), nn.ReLU()]  # type: ignore[arg-type]
    return nn.Sequential(*layers)


class Tagger(nn.Module):
    """Convolutions over a sequence of token numbers ``[N, L]`` or features ``[N, L, C]``; logits ``[N, L, K]``."""

    def __init__(self, norm: Norm, in_channels: int, classes: int, ids: bool, width: int = 48, depth: int = 3) -> None:
        super().__init__()
        self.enter = nn.Embedding(in_channels, width) if ids else nn.Linear(in_channels, width)
        blocks = [
            [nn.Conv1d(width, width, 5, padding=2), make_norm(norm, width, rank=1), nn.ReLU()] for _ in range(depth)
        ]
        self.blocks = nn.Sequential(*(layer for block in blocks for layer in block))
        self.classifier = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.blocks(self.enter(x).transpose(1, 2)).transpose(1, 2))


class Gpt(nn.Module):
    """A decoder of pre-LayerNorm blocks over token numbers ``[N, L]`` (Radford et al. 2019); logits ``[N, L, V]``.

    Embeddings have variance 1. With GPT-2's 0.02² the signal of layers without statistics (DynamicTanh) nearly
    vanishes.
    """

    def __init__(self, vocabulary: int, length: int, width: int = 64, heads: int = 4, depth: int = 2) -> None:
        super().__init__()
        self.token, self.place = nn.Embedding(vocabulary, width), nn.Embedding(length, width)
        self.blocks = nn.Sequential(*(_Block(width, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.classifier = nn.Linear(width, vocabulary, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        places = torch.arange(x.shape[1], device=x.device)
        return self.classifier(self.norm(self.blocks(self.token(x) + self.place(places))))


class _Block(nn.Module):
    """Causal attention and a feed-forward part, each a residual branch behind its LayerNorm."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.project, self.merge = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        n, length, width = x.shape
        q, k, v = self.project(self.norm1(x)).view(n, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        seen = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.merge(seen.transpose(1, 2).reshape(n, length, width))
        return x + self.mlp(self.norm2(x))


class SmallNet(NamedTuple):
    """A small net for `open_model`: its samples in words, their numbers of dimensions without N, and `make`, which is
    called with (example, channels, outputs), and with the normalizer before these if it `takes_norm`."""

    takes: str
    dimensions: tuple[int, ...]
    takes_norm: bool
    make: Callable[..., nn.Module]


SMALL_NETS = {
    "mlp": SmallNet("features [N, C]", (1,), True, lambda norm, _, channels, outputs: mlp(norm, channels, outputs)),
    "unet": SmallNet(
        "images [N, C, H, W] or volumes",
        (3, 4),
        True,
        lambda norm, example, channels, outputs: UNet(norm, channels, outputs, example.dim() - 2),
    ),
    "tagger": SmallNet(
        "sequences [N, L] or [N, L, C]",
        (1, 2),
        True,
        lambda norm, example, channels, outputs: Tagger(norm, channels, outputs, not example.is_floating_point()),
    ),
    "gpt": SmallNet("token numbers [N, L]", (1,), False, lambda example, _, outputs: Gpt(outputs, example.shape[1])),
}
