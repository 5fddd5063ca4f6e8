"""The cube as a picture: channels to the right, positions down, samples to the back, as in the GroupNorm paper."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from torch import Tensor

from ..pages.palette import LIGHT, SERIES
from ..signal.pictures.png import render
from ..signal.pictures.shapes import Path, Shape, Text
from ..signal.pictures.svg import document
from .measuring import ALONE, MASKED
from .terminal import as_grid

if TYPE_CHECKING:
    from .findings import Findings

CELL, BACK, MARGIN, HEAD = 34.0, 20.0, 24.0, 64.0
#: The part of a larger cube that is drawn: samples, channels and positions.
MOST = (8, 12, 8)
#: The share of white in the colours of the front, the top and the side.
FRONT, TOP, SIDE = 0.55, 0.72, 0.4
_SIGNS = {ALONE: "·", MASKED: "-"}
_PAPERS = {ALONE: LIGHT["page"], MASKED: LIGHT["line"]}


class Sizes(NamedTuple):
    samples: int
    channels: int
    positions: int


def svg(findings: Findings) -> str:
    """The content of an SVG file."""
    width, height, shapes, alt = _sheet(findings)
    return document(width, height, shapes, alt)


def png(findings: Findings) -> bytes:
    """The content of a PNG file; needs Pillow."""
    width, height, shapes, _ = _sheet(findings)
    return render(width, height, shapes)


def _sheet(findings: Findings) -> tuple[float, float, list[Shape], str]:
    """Width, height, shapes and description of the picture."""
    grid = as_grid(findings.cube, findings.rows)
    sizes = Sizes(*(min(size, most) for size, most in zip(grid.shape, MOST, strict=True)))
    wide = sizes.channels * CELL + sizes.samples * BACK
    high = sizes.positions * CELL + sizes.samples * BACK
    mode = {True: ", training", False: ", evaluation", None: ""}[findings.training]
    title = f"{findings.name if findings.row is None else findings.row.title}{mode}"
    said = findings.properties["Range of a statistic"]
    cut = "" if sizes == tuple(grid.shape) else f"; the first {' x '.join(map(str, sizes))} of {list(grid.shape)}"
    shapes: list[Shape] = [
        Text(MARGIN, 24, title, "ink", 16, bold=True),
        Text(MARGIN, 46, f"A statistic is pooled over: {said}{cut}"),
    ]
    shapes += _faces(grid, sizes)
    bottom = HEAD + high + 16
    shapes += [
        Text(MARGIN + sizes.channels * CELL / 2, bottom, "C →", anchor="middle"),
        Text(MARGIN + sizes.channels * CELL + sizes.samples * BACK / 2 + 22, bottom - sizes.samples * BACK / 2, "N ↗"),
        Text(MARGIN, bottom + 22, "positions ↓; equal numbers share all their statistics", size=12),
    ]
    words = max(10.2 * len(title), 7.4 * len(f"A statistic is pooled over: {said}{cut}"))  # in the widest usual fonts
    width = MARGIN * 2 + max(wide + 40, words)
    return width, bottom + 40, shapes, f"The cube of {title}: a statistic is pooled over {said}."


def _faces(grid: Tensor, sizes: Sizes) -> list[Shape]:
    """The three visible faces, cell by cell, the farthest first."""
    samples, channels, positions = sizes
    left, top = MARGIN, HEAD + samples * BACK
    shapes: list[Shape] = []
    for n in reversed(range(samples)):
        for c in range(channels):
            at = (left + c * CELL + n * BACK, top - n * BACK)
            corners = (at, (at[0] + CELL, at[1]), (at[0] + CELL + BACK, at[1] - BACK), (at[0] + BACK, at[1] - BACK))
            shapes += _cell(corners, int(grid[n, c, 0]), TOP)
        for s in range(positions):
            at = (left + channels * CELL + n * BACK, top + s * CELL - n * BACK)
            corners = (at, (at[0] + BACK, at[1] - BACK), (at[0] + BACK, at[1] - BACK + CELL), (at[0], at[1] + CELL))
            shapes += _cell(corners, int(grid[n, channels - 1, s]), SIDE)
    for c in range(channels):
        for s in range(positions):
            x, y = left + c * CELL, top + s * CELL
            corners = ((x, y), (x + CELL, y), (x + CELL, y + CELL), (x, y + CELL))
            shapes += _cell(corners, int(grid[0, c, s]), FRONT)
    return shapes


def _cell(corners: tuple[tuple[float, float], ...], group: int, white: float) -> list[Shape]:
    middle = [sum(corner[axis] for corner in corners) / 4 for axis in (0, 1)]
    return [
        Path(corners, color_of(group, white), fill=True),
        Path((*corners, corners[0]), LIGHT["page" if group >= 0 else "line"], 1.2),
        Text(middle[0], middle[1], _SIGNS.get(group, str(group)), "ink", 12, "middle"),
    ]


def color_of(group: int, white: float) -> str:
    """A group's colour mixed with white; groups beyond the palette repeat its colours.

    >>> color_of(0, 0.0), color_of(0, 1.0)
    ('#0072b2', '#ffffff')
    """
    if group < 0:
        return _PAPERS[group]
    parts = [int(SERIES[group % len(SERIES)][k : k + 2], 16) for k in (1, 3, 5)]
    return "#" + "".join(f"{round(part + (255 - part) * white):02x}" for part in parts)
