"""The shapes of pictures. Positions are in pixels from the top left; colours are #rrggbb or a role."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Literal

from ...pages.palette import LIGHT

Role = Literal["ink", "quiet", "grid", "paper"]
ROLES = {"ink": LIGHT["ink"], "quiet": LIGHT["quiet"], "grid": LIGHT["grid"], "paper": LIGHT["page"]}
Anchor = Literal["start", "middle", "end"]


@dataclass(frozen=True)
class Path:
    """A line through points; closed and filled where `fill` is true."""

    points: tuple[tuple[float, float], ...]
    color: str
    width: float = 1.0
    dashed: bool = False
    fill: bool = False


@dataclass(frozen=True)
class Text:
    """A text. `y` is the middle of the letters' height; `whole` is the full form of a shortened text."""

    x: float
    y: float
    text: str
    color: str = "quiet"
    size: float = 13
    anchor: Anchor = "start"
    bold: bool = False
    whole: str = ""


@dataclass(frozen=True)
class Marker:
    """A filled shape of `MARKERS` at a point, with a title that describes it."""

    x: float
    y: float
    shape: str
    color: str
    title: str
    size: float = 7
    hollow: bool = False

    def outline(self) -> tuple[tuple[float, float], ...]:
        return tuple((self.x + self.size / 2 * dx, self.y + self.size / 2 * dy) for dx, dy in MARKERS[self.shape])


MARKERS: dict[str, tuple[tuple[float, float], ...]] = {
    "circle": tuple((math.cos(i * math.pi / 8), math.sin(i * math.pi / 8)) for i in range(16)),
    "square": ((-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)),
    "diamond": ((0, -1.25), (1.25, 0), (0, 1.25), (-1.25, 0)),
    "triangle": ((0, -1.2), (1.1, 0.8), (-1.1, 0.8)),
    "down": ((0, 1.2), (1.1, -0.8), (-1.1, -0.8)),
    "bar": ((-1.2, -0.5), (1.2, -0.5), (1.2, 0.5), (-1.2, 0.5)),
    "column": ((-0.5, -1.2), (0.5, -1.2), (0.5, 1.2), (-0.5, 1.2)),
}


@dataclass(frozen=True)
class Series:
    """The shapes of one model, which the legend can hide and show."""

    model: int
    shapes: tuple[Path | Marker | Text, ...]


Shape = Path | Marker | Text | Series


@dataclass(frozen=True)
class Panel:
    """A picture with axes; `alt` is its description in words."""

    width: float
    height: float
    title: str
    alt: str
    shapes: tuple[Shape, ...] = field(repr=False)


def moved(shape: Shape, dx: float, dy: float) -> Shape:
    """The same shape, moved."""
    if isinstance(shape, Series):
        return replace(shape, shapes=tuple(moved(s, dx, dy) for s in shape.shapes))  # type: ignore[misc]
    if isinstance(shape, Path):
        return replace(shape, points=tuple((x + dx, y + dy) for x, y in shape.points))
    return replace(shape, x=shape.x + dx, y=shape.y + dy)
