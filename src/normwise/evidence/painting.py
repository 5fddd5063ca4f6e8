"""A small feed-forward net that paints photographs in a style, for the experiments on style transfer."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor, nn

from ..functional.adaptive import Style, adaptive_instance_norm, style_statistics
from ..nets import StyleNet, vgg_trunk
from ..style.features import Features, vgg_features
from ..style.losses import StyleTargets, relative_distance, style_loss, style_targets
from .photographs import photographs
from .steps import take_step

NORMS = {"InstanceNorm": "instance", "BatchNorm": "batch"}
INSTANCE, BATCH = NORMS
SIDE, RATE, STEPS_OF_EPOCH = 48, 4e-3, 20
STYLE_WEIGHT, PIXEL_WEIGHT, BY_PIXELS = 10.0, 10.0, 0.3
SHOWN = 144


@lru_cache(maxsize=32)
def trained(case: str, size: int, seed: int, epochs: int) -> nn.Module:
    """The net with one of `NORMS`, trained to paint crops of the photographs in waves of a few colours."""
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        net = StyleNet(NORMS[case], width=8, blocks=2)
        optimizer = torch.optim.Adam(net.parameters(), RATE)
        total = epochs * STEPS_OF_EPOCH
        for step in range(total):
            crops = _crops(size)
            painted = net(crops)
            by_pixels = step < BY_PIXELS * total
            take_step(optimizer, from_colors(painted, crops) if by_pixels else objective(painted, crops))
    return net.eval()


def objective(painted: Tensor, crops: Tensor) -> Tensor:
    """The training objective: the distances from the photograph in the style's colours, from the style's textures (Gram
    matrices), and from the photograph's content."""
    features, target = _features(), _in_colors(crops)
    maps = features(painted)
    loss = PIXEL_WEIGHT * from_colors(painted, crops) + STYLE_WEIGHT * style_loss(maps, _textures(), "gram")
    with torch.no_grad():
        kept = features(target, (features.content,))[features.content]
    return loss + relative_distance(maps[features.content], kept)


def from_colors(painted: Tensor, crops: Tensor) -> Tensor:
    """The mean squared distance from the photograph in the style's colours."""
    return (painted - _in_colors(crops)).square().mean()


def _in_colors(crops: Tensor) -> Tensor:
    return adaptive_instance_norm(crops, _palette(), 1e-4).clamp(0, 1)


@lru_cache(maxsize=1)
def _palette() -> Style:
    return style_statistics(waves()[None])


@lru_cache(maxsize=1)
def _textures() -> StyleTargets:
    features = _features()
    return style_targets(features(waves()[None]), features.style, "gram")


@lru_cache(maxsize=1)
def _features() -> Features:
    """Random convolutions, which represent textures and colours; that is enough for waves."""
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        return vgg_features(vgg_trunk((2, 2), width=16), "random", trained=False)


def waves(side: int = 96) -> Tensor:
    """The style: bent stripes of blue, white and orange, ``[3, side, side]`` in [0, 1]."""
    y, x = torch.meshgrid(*2 * [torch.linspace(0, 1, side)], indexing="ij")
    phase = 2 * math.pi * (9 * y + 0.6 * torch.sin(2 * math.pi * 3 * x))
    share = (0.5 + 0.5 * torch.sin(phase))[None]
    colors = torch.tensor([[0.05, 0.15, 0.45], [0.95, 0.92, 0.8], [0.9, 0.45, 0.1]])[..., None, None]
    return torch.where(
        share < 0.5, torch.lerp(colors[0], colors[1], 2 * share), torch.lerp(colors[1], colors[2], 2 * share - 1)
    )


def _crops(size: int) -> Tensor:
    found = []
    for _ in range(size):
        picture = photographs()[int(torch.randint(2, ()))]
        top, left = (int(torch.randint(picture.shape[i] - SIDE + 1, ())) for i in (1, 2))
        found.append(picture[:, top : top + SIDE, left : left + SIDE])
    return torch.stack(found)


def places() -> list[Tensor]:
    """Three places of the photographs to paint, of `SHOWN` pixels each way."""
    temple, flower = photographs()
    return [temple[:, 60 : 60 + SHOWN, 100 : 100 + SHOWN], flower[:, :SHOWN, :SHOWN], flower[:, -SHOWN:, -SHOWN:]]
