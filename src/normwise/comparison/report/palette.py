"""One colour and one marker per normalizer, the same in every picture; the markers alone identify them, too."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from ...pages.palette import SERIES


@dataclass(frozen=True)
class Style:
    """The style of one normalizer: `color` as #rrggbb, `symbol` as plotly names it, `glyph` the same as a character."""

    color: str
    symbol: str
    glyph: str

    def shade(self, opacity: float) -> str:
        """The colour as a CSS `rgba(...)`.

        >>> Style("#0072B2", "circle", "●").shade(0.5)
        'rgba(0,114,178,0.5)'
        """
        red, green, blue = (int(self.color[i : i + 2], 16) for i in (1, 3, 5))
        return f"rgba({red},{green},{blue},{opacity})"


_FIXED = {
    "batch": Style(SERIES[0], "circle", "●"),
    "group": Style(SERIES[1], "square", "■"),
    "instance": Style(SERIES[2], "diamond", "◆"),
    "layer": Style(SERIES[3], "triangle-up", "▲"),
    "none": Style(SERIES[4], "triangle-down", "▼"),
    "nf": Style(SERIES[-1], "star", "★"),
}
_COLORS = SERIES[5:-1]
_SYMBOLS = (
    ("circle-open", "○"),
    ("square-open", "□"),
    ("diamond-open", "◇"),
    ("triangle-up-open", "△"),
    ("triangle-down-open", "▽"),
    ("star-open", "☆"),
    ("hexagon-open", "⬡"),
)


def styles(norms: Iterable[str]) -> dict[str, Style]:
    """A style for each name in `norms`; the classic names always get the same one, also as "group:8" if it is free.

    >>> styles(["batch", "my_norm"])["batch"].color, styles(["group:8"])["group:8"].symbol
    ('#0072B2', 'square')
    """
    norms = list(norms)
    chosen = {norm: _FIXED[norm] for norm in norms if norm in _FIXED}
    for norm in norms:
        relative = _FIXED.get(norm.partition(":")[0])
        if relative and relative not in chosen.values():
            chosen.setdefault(norm, relative)
    colors = [*_COLORS, *(style.color for style in _FIXED.values() if style not in chosen.values())]
    both = math.lcm(len(colors), len(_SYMBOLS))  # after so many, colours and symbols would meet again
    for i, norm in enumerate(norm for norm in norms if norm not in chosen):
        chosen[norm] = Style(colors[i % len(colors)], *_SYMBOLS[(i + i // both) % len(_SYMBOLS)])
    return chosen
