"""The distance of a picture from a content and from a style, measured on the maps of a network.

Every term is relative to its target, so that the same weights suit every feature network and layer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from ..core.moments import Moments
from ..operations.measure import measure

Maps = Mapping[str, Tensor]
#: The data of a style for a style loss: by layer, tables with one row for each picture.
StyleTargets = dict[str, tuple[Tensor, ...]]
SMALL = 1e-8


def gram(x: Tensor) -> tuple[Tensor, ...]:
    r"""The Gram matrix of each picture's maps, :math:`G_{cd} = \frac{1}{HW} \sum_p x_{cp} x_{dp}`, ``[N, C, C]``.

    Source: Gatys, Ecker and Bethge 2015, arXiv:1508.06576.
    """
    flat = x.flatten(2)
    return (flat @ flat.transpose(1, 2) / flat.shape[2],)


def mean_and_deviation(x: Tensor) -> tuple[Tensor, ...]:
    """Mean and (biased) standard deviation of each plane, ``[N, C]`` each.

    Source: Li, Wang, Liu and Hou 2017, arXiv:1701.01036; the style loss of Huang and Belongie 2017, arXiv:1703.06868.
    """
    table: Moments = measure(x)
    return table.mean.to(x.dtype), (table.var + SMALL).sqrt().to(x.dtype)


#: The statistics of the maps that should equal those of the style, by name.
STYLE_LOSSES: dict[str, Callable[[Tensor], tuple[Tensor, ...]]] = {"gram": gram, "moments": mean_and_deviation}


def style_targets(maps: Maps, layers: tuple[str, ...], loss: str) -> StyleTargets:
    """The style targets from the maps of styles."""
    return {layer: tuple(table.detach() for table in STYLE_LOSSES[loss](maps[layer])) for layer in layers}


def style_loss(maps: Maps, targets: StyleTargets, loss: str, rows: Tensor | None = None) -> Tensor:
    """The mean over pictures and layers of ``‖a - b‖² / ‖b‖²``, with ``rows`` the style of each picture."""
    terms = [
        relative_distance(found, target if rows is None else target[rows])
        for layer, kept in targets.items()
        for found, target in zip(STYLE_LOSSES[loss](maps[layer]), kept, strict=True)
    ]
    return torch.stack(terms).mean()


def relative_distance(x: Tensor, target: Tensor) -> Tensor:
    """The mean over samples of ``‖x - target‖² / ‖target‖²``."""
    squares = (x - target).flatten(1).square().sum(1)
    return (squares / target.flatten(1).square().sum(1).clamp_min(SMALL)).mean()


def energy(x: Tensor) -> Tensor:
    """The mean square of each picture's maps, ``[N]``."""
    return x.square().flatten(1).mean(1)


def content_loss(x: Tensor, target: Tensor, style_energy: Tensor) -> Tensor:
    """The mean over pictures of ``mean (x - target)² / style energy``.

    Relative to the style's maps, not to the content's, which are nearly 0 for an empty sky, so that it would dominate.
    """
    return (energy(x - target) / style_energy.clamp_min(SMALL)).mean()


def total_variation(picture: Tensor) -> Tensor:
    """The mean square of the differences of neighbours, in units of a pixel's range."""
    down, right = picture.diff(dim=2), picture.diff(dim=3)
    return down.square().mean() + right.square().mean()
