"""The training objectives of style nets: paint crops and measure the losses."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ..functional.adaptive import Style, adaptive_instance_norm, style_statistics
from ..nets.style import AdaptiveStyleNet, StyleNet
from .features import Features, check_style, mixed_precision
from .losses import (
    StyleTargets,
    content_loss,
    energy,
    relative_distance,
    style_loss,
    style_targets,
    total_variation,
)
from .photographs import Crops
from .pictures import read_picture
from .plan import ENCODER_LAYER, Plan
from .schedule import steps_by_pixels
from .style_file import ANY, MANY

#: Added to the variance of a crop's pixels under the root.
EPS = 1e-4


class Losses(NamedTuple):
    """The weighted sum, and the two parts that are reported, relative to their targets."""

    total: Tensor
    content: float
    style: float


Objective = Callable[..., Losses]


def objective_for(plan: Plan, features: Features) -> Objective:
    """A function of (net, crops, step)."""
    return _AnyStyle(plan, features) if plan.kind == ANY else _KnownStyles(plan, features)


class _KnownStyles:
    """The objective for known styles: every crop is painted in one of them."""

    def __init__(self, plan: Plan, features: Features) -> None:
        self._plan, self._features = plan, features
        self._targets, self._energy, self._palettes = known_targets(plan, features)

    def __call__(self, net: StyleNet, crops: Tensor, step: int) -> Losses:
        # In turn, so that all styles are trained equally often.
        turn = step * len(crops) + torch.arange(len(crops))
        labels = turn % len(self._plan.styles) if self._plan.kind == MANY else None
        with mixed_precision():
            painted = net(crops, labels)
        painted = painted.float()
        content = self._features.content
        rows = torch.zeros(len(crops), dtype=torch.long) if labels is None else labels
        if step < steps_by_pixels(self._plan.steps):
            palette = Style(*(table[rows] for table in self._palettes))
            return _by_pixels(painted, adaptive_instance_norm(crops, palette, EPS))
        with torch.no_grad():
            target = self._features(crops, (content,))[content]
        maps = self._features(painted)
        style = style_loss(maps, self._targets, self._plan.loss, rows)
        return _weighted(self._plan, content_loss(maps[content], target, self._energy[rows]), style, painted)


class _AnyStyle:
    """The objective for any style: every crop is painted in the style of a crop of another picture, by the statistics
    of the encoder's maps."""

    def __init__(self, plan: Plan, features: Features) -> None:
        self._plan, self._features = plan, features
        self._styles = Crops(plan.styles, plan.size, plan.seed + 1, plan.style_size)

    def __call__(self, net: AdaptiveStyleNet, crops: Tensor, step: int) -> Losses:
        if step < steps_by_pixels(self._plan.steps):
            with mixed_precision():
                copied = net.decoder(net.encoder(crops))
            return _by_pixels(copied.float(), crops)
        with torch.no_grad():
            styles = self._features(self._styles(step, len(crops)))
            targets = style_targets(styles, self._features.style, self._plan.loss)
            with mixed_precision():
                maps = net.encoder(crops).float()
            wanted = net.adapt(maps, style_statistics(styles[ENCODER_LAYER]))
        with mixed_precision():
            painted = net.decoder(wanted)
        painted = painted.float()
        maps = self._features(painted)
        style = style_loss(maps, targets, self._plan.loss)
        return _weighted(self._plan, relative_distance(maps[ENCODER_LAYER], wanted), style, painted)


def known_targets(plan: Plan, features: Features) -> tuple[StyleTargets, Tensor, Style]:
    """The tables of all styles, one below the other; their energies in the content layer; and their palettes.

    A palette is the mean and standard deviation of the pixels. A style's picture has the size `Plan.style_size`.
    """
    tables: list[StyleTargets] = []
    energies, palettes = [], []
    for path in plan.styles:
        picture = read_picture(path, plan.style_size).pixels
        check_style(picture, f"The style {path}")
        pixels = picture.unsqueeze(0)
        with torch.no_grad():
            maps = features(pixels)
            tables.append(style_targets(maps, features.style, plan.loss))
            energies.append(energy(maps[features.content]))
            palettes.append(style_statistics(pixels))
    parts = range(len(tables[0][features.style[0]]))
    stacked = {
        layer: tuple(torch.cat([table[layer][part] for table in tables]) for part in parts) for layer in features.style
    }
    return stacked, torch.cat(energies), Style(*(torch.cat(part) for part in zip(*palettes, strict=True)))


def _by_pixels(painted: Tensor, target: Tensor) -> Losses:
    distance = (painted - target.clamp(0, 1)).square().mean()
    return Losses(distance, distance.item(), math.nan)


def _weighted(plan: Plan, content: Tensor, style: Tensor, painted: Tensor) -> Losses:
    total = plan.content_weight * content + plan.style_weight * style + plan.smoothness * total_variation(painted)
    return Losses(total, content.item(), style.item())
