"""One colour and one marker per model, apart under every common colour blindness, and without colour."""

from __future__ import annotations

from typing import NamedTuple

from ...pages.palette import SERIES
from .shapes import MARKERS


class Look(NamedTuple):
    color: str
    marker: str


_LOOKS = tuple(Look(*look) for look in zip(SERIES, MARKERS, strict=False))


def look(model: int) -> Look:
    """The look of the n-th model; from the eighth on colours come again with other markers."""
    color = _LOOKS[model % len(_LOOKS)].color
    return Look(color, _LOOKS[(model + model // len(_LOOKS)) % len(_LOOKS)].marker)
