"""One colour and one marker per model, distinguishable with common colour blindness and without colour."""

from __future__ import annotations

from typing import NamedTuple

from ...pages.palette import SERIES
from .shapes import MARKERS


class LineStyle(NamedTuple):
    color: str
    marker: str


_STYLES = tuple(LineStyle(*pair) for pair in zip(SERIES, MARKERS, strict=False))


def line_style(model: int) -> LineStyle:
    """The style of the n-th model; from the eighth on colours are repeated with other markers."""
    color = _STYLES[model % len(_STYLES)].color
    return LineStyle(color, _STYLES[(model + model // len(_STYLES)) % len(_STYLES)].marker)
