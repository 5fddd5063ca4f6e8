"""Shapes as pixels, with Pillow: a picture for places without SVG."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable
from functools import cache
from itertools import pairwise
from typing import Any

from .shapes import ROLES, Marker, Path, Series, Shape, Text

# Pixels per unit of length, and how much finer lines are drawn before they are averaged.
DENSITY, FINER = 2, 2
FONTS = {
    False: ("DejaVuSans.ttf", "LiberationSans-Regular.ttf", "Arial.ttf", "arial.ttf"),
    True: ("DejaVuSans-Bold.ttf", "LiberationSans-Bold.ttf", "Arial Bold.ttf", "arialbd.ttf"),
}
DASH, PAUSE = 5, 4


def render(width: float, height: float, shapes: Iterable[Shape]) -> bytes:
    """A PNG file with two pixels per unit of length.

    Raises ModuleNotFoundError if Pillow is not installed.
    """
    try:
        from PIL import Image, ImageDraw
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "PNG files need Pillow (pip install 'normwise[cli]'); SVG and HTML do not.", name="PIL"
        ) from error
    unit = DENSITY * FINER
    image = Image.new("RGB", (round(width * unit), round(height * unit)), ROLES["paper"])
    _draw(ImageDraw.Draw(image), shapes, unit)
    small = image.resize((round(width * DENSITY), round(height * DENSITY)), Image.Resampling.LANCZOS)
    # Few colours: a palette makes the file several times smaller.
    file = io.BytesIO()
    small.quantize(128).save(file, "PNG", optimize=True)
    return file.getvalue()


def _draw(canvas: Any, shapes: Iterable[Shape], unit: int) -> None:
    for shape in shapes:
        if isinstance(shape, Series):
            _draw(canvas, shape.shapes, unit)
        elif isinstance(shape, Path):
            _draw_path(canvas, shape, unit)
        elif isinstance(shape, Marker):
            outline = [(x * unit, y * unit) for x, y in shape.outline()]
            fill = ROLES["paper"] if shape.hollow else shape.color
            canvas.polygon(outline, fill=fill, outline=shape.color, width=round(1.5 * unit) if shape.hollow else 1)
        else:
            _draw_text(canvas, shape, unit)


def _draw_path(canvas: Any, path: Path, unit: int) -> None:
    points = [(x * unit, y * unit) for x, y in path.points]
    color = ROLES.get(path.color, path.color)
    if path.fill:
        canvas.polygon(points, fill=color)
    elif path.dashed:
        for part in _dashes(points, DASH * unit, PAUSE * unit):
            canvas.line(part, fill=color, width=round(path.width * unit))
    else:
        canvas.line(points, fill=color, width=round(path.width * unit), joint="curve")


def _dashes(points: list[tuple[float, float]], dash: float, pause: float) -> Iterable[list[tuple[float, float]]]:
    """The drawn parts of a line, counted along its length."""
    travelled = 0.0
    for (x0, y0), (x1, y1) in pairwise(points):
        length = math.hypot(x1 - x0, y1 - y0)
        at = 0.0
        while at < length:
            phase = (travelled + at) % (dash + pause)
            step = min((dash if phase < dash else dash + pause) - phase + 1e-6, length - at)
            if phase < dash:
                ends = (at, at + step)
                yield [(x0 + (x1 - x0) * t / length, y0 + (y1 - y0) * t / length) for t in ends]
            at += step
        travelled += length


def _draw_text(canvas: Any, text: Text, unit: int) -> None:
    anchor = {"start": "lm", "middle": "mm", "end": "rm"}[text.anchor]
    font = _font(text.size * unit, text.bold)
    canvas.text(
        (text.x * unit, text.y * unit), text.text, fill=ROLES.get(text.color, text.color), font=font, anchor=anchor
    )


@cache
def _font(size: float, bold: bool) -> Any:
    from PIL import ImageFont

    for name in FONTS[bold]:
        try:
            return ImageFont.truetype(name, size)
        except OSError:
            continue
    return ImageFont.load_default(size)
