"""Paint a picture of any size with a trained style."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import InputError
from ..nets.style import REDUCTION, AdaptiveStyleNet, StyleNet
from ..surgery import tiles
from .style_file import ANY, MANY, ONE, Style

#: Pictures of up to this many pixels are painted whole, larger ones in tiles.
WHOLE = 1_500_000
#: The size of a tile's core, and the overlap around it, which exceeds the net's receptive field.
TILE, OVERLAP = 768, 128
#: Mirror padding needs a few pixels.
LEAST = 32


def net_for(
    style: Style, wanted: Mapping[str, float] | None = None, picture: Tensor | None = None, strength: float = 1.0
) -> nn.Module:
    """The plain net that paints in one style.

    Args:
        wanted: names of styles and their weights, for nets of many; the weights are scaled to a sum of one.
        picture: the style ``[3, H, W]``, for nets of any style.
        strength: for nets of any style, from 0 (the content's own statistics) to 1 (those of the style).

    Raises InputError if the arguments do not belong to this kind of net.
    """
    _check_belonging(style, wanted, picture, strength)
    with torch.no_grad():
        if isinstance(style.net, AdaptiveStyleNet):
            assert picture is not None
            return style.net.for_style(style.net.statistics(_padded(picture)), strength).eval()
        if style.kind == MANY:
            return style.net.for_style(_weights(style, wanted or {})).eval()
    assert isinstance(style.net, StyleNet)
    return style.net.eval()


def paint(net: nn.Module, pixels: Tensor, *, tile: int = TILE, whole: int = WHOLE) -> Tensor:
    """The painting ``[3, H, W]`` of a picture ``[3, H, W]``.

    Above ``whole`` pixels it uses `normwise.tiles`: memory is bounded by the tile, and normalizers use the statistics
    of the whole picture, so the result is that of the whole picture, without seams.
    """
    height, width = pixels.shape[1:]
    padded = _padded(pixels)
    with torch.no_grad():
        if height * width <= whole:
            painted = net(padded)
        else:
            try:
                painted = tiles(net, padded, tile=tile, overlap=OVERLAP)
            except ValueError as error:
                raise InputError(
                    f"This picture is too large to be painted whole, and its net cannot paint in tiles: {error} Write "
                    "--size 1200, or train with --norm instance."
                ) from error
    return painted[0, :, :height, :width].clamp(0, 1)


def _padded(pixels: Tensor) -> Tensor:
    """``[1, 3, H, W]`` with sizes that the nets accept; the last row and column are repeated if needed."""
    height, width = (max(LEAST, -(-size // REDUCTION) * REDUCTION) for size in pixels.shape[1:])
    margins = (0, width - pixels.shape[2], 0, height - pixels.shape[1])
    return torch.nn.functional.pad(pixels.unsqueeze(0), margins, mode="replicate")


def _weights(style: Style, wanted: Mapping[str, float]) -> Tensor:
    unknown = next((name for name in wanted if name not in style.names), None)
    if unknown is not None or not wanted:
        problem = f"there is no style {unknown!r} in it" if wanted else "it holds several styles"
        raise InputError(f"{problem[0].upper()}{problem[1:]}; write --style with one of: {', '.join(style.names)}.")
    weights = torch.tensor([float(wanted.get(name, 0.0)) for name in style.names])
    if not (weights >= 0).all() or not 0 < weights.sum() < float("inf"):
        raise InputError(f"The weights of styles must be positive numbers, received {dict(wanted)}.")
    return weights / weights.sum()


def _check_belonging(style: Style, wanted: Any, picture: Tensor | None, strength: float) -> None:
    if style.kind == ANY and picture is None:
        raise InputError("This net paints in any style; write --style and a picture of it.")
    if style.kind != ANY and picture is not None:
        raise InputError(f"This net paints in {style.description()}; only a net of --any takes a picture as style.")
    if style.kind == ONE and wanted and set(wanted) != set(style.names):
        raise InputError(f"This net paints in the style {style.names[0]} alone; leave --style out.")
    if not 0 <= strength <= 1 or (strength != 1 and style.kind != ANY):
        raise InputError(f"--strength {strength:g}: write a number from 0 to 1, for a net of any style.")
