"""One colour and one marker per model, apart under every common colour blindness, and without colour."""

from __future__ import annotations

from typing import NamedTuple


class Look(NamedTuple):
    color: str
    marker: str


# Okabe and Ito's colours (2008), darkened where their contrast with white is under 3:1, as in the comparison's report.
_LOOKS = (
    Look("#0072B2", "circle"),
    Look("#D55E00", "square"),
    Look("#009E73", "diamond"),
    Look("#CC79A7", "triangle"),
    Look("#62666B", "down"),
    Look("#9A7200", "bar"),
    Look("#2F9BC1", "column"),
)


def look(model: int) -> Look:
    """The look of the n-th model; from the eighth on colours come again with other markers."""
    color = _LOOKS[model % len(_LOOKS)].color
    return Look(color, _LOOKS[(model + model // len(_LOOKS)) % len(_LOOKS)].marker)
