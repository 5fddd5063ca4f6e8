"""Panels side by side with a title and a legend, for a picture in one file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import ceil

from .line_styles import line_style
from .shapes import Marker, Panel, Path, Shape, Text, moved

MARGIN, LINE = 14, 22
LETTER = 7.4
PREDICTED = "predicted"


def sheet(
    title: str, names: Sequence[str], panels: Sequence[Panel], *, predicted: bool, columns: int
) -> tuple[float, float, list[Shape]]:
    """Width, height and shapes of the whole picture."""
    wide, high = max(panel.width for panel in panels), max(panel.height for panel in panels) + LINE + MARGIN
    columns = max(1, min(columns, len(panels)))
    width = columns * wide + 2 * MARGIN
    shapes: list[Shape] = [Text(MARGIN, MARGIN + 8, title, "ink", 17, bold=True)]
    top = 2 * MARGIN + LINE
    for shape, row in _legend(names, width, predicted):
        shapes.append(moved(shape, MARGIN, top + row * LINE))
        lowest = top + (row + 1) * LINE
    top = (lowest if names else top) + MARGIN / 2
    for i, panel in enumerate(panels):
        x, y = MARGIN + i % columns * wide, top + i // columns * high
        shapes.append(Text(x + 4, y + 10, panel.title, "ink", 14, bold=True))
        shapes += [moved(shape, x, y + LINE) for shape in panel.shapes]
    return width, top + ceil(len(panels) / columns) * high + MARGIN / 2, shapes


def _legend(names: Sequence[str], width: float, predicted: bool) -> Iterator[tuple[Shape, int]]:
    """The shapes of the legend, each with its row."""
    x, row = 6.0, 0
    entries = [*enumerate(names), *([(-1, PREDICTED)] if predicted else [])]
    for model, name in entries:
        needed = 34 + LETTER * len(name)
        if x > 6 and x + needed > width - 2 * MARGIN:
            x, row = 6.0, row + 1
        if model < 0:
            yield Path(((x - 6, 0), (x + 10, 0)), "ink", 1.5, dashed=True), row
        else:
            color, marker = line_style(model)
            yield Marker(x, 0, marker, color, name, size=9), row
        yield Text(x + 14, 0, name, "ink"), row
        x += needed
