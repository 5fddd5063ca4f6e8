"""Pictures as SVG text: a few elements, axes with logarithmic ticks, and colours for light and dark pages."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from html import escape

from .palette import DARK, FONT, LIGHT
from .ticks import log_ticks

#: The least number of ticks of a wide axis.
LEAST_TICKS = 6


def _colors(palette: dict[str, str]) -> str:
    ink, quiet, line = palette["ink"], palette["quiet"], palette["line"]
    return (
        f"text {{ fill: {ink}; }} .quiet {{ fill: {quiet}; }} .grid {{ stroke: {line}; }} .roof {{ stroke: {quiet}; }}"
    )


STYLE = f"""
text {{ font: 12px {FONT}; }} .end {{ text-anchor: end; }} .middle {{ text-anchor: middle; }}
.roof {{ fill: none; stroke-width: 2; }}
{_colors(LIGHT)}
@media (prefers-color-scheme: dark) {{ {_colors(DARK)} }}
.onfill {{ fill: {LIGHT["ink"]}; }}
"""


def document(width: float, height: float, parts: Iterable[str], label: str) -> str:
    """A whole picture; ``label`` describes it in words."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" width="{width:g}" '
        f'height="{height:g}" role="img" aria-label="{escape(label)}"><style>{STYLE}</style>{"".join(parts)}</svg>'
    )


def text(x: float, y: float, words: str, css_class: str = "") -> str:
    """Words at a point, with an optional class of the style sheet.

    >>> text(1, 2, "a<b", "end")
    '<text x="1" y="2" class="end">a&lt;b</text>'
    """
    named = f' class="{css_class}"' if css_class else ""
    return f'<text x="{x:g}" y="{y:g}"{named}>{escape(words, quote=False)}</text>'


def slanted(x: float, y: float, quiet: str, words: str) -> str:
    """A slanted heading above a narrow column."""
    turn = f'transform="translate({x:g},{y:g}) rotate(-40)"'
    return f'<text {turn}><tspan class="quiet">{escape(quiet)} </tspan>{escape(words)}</text>'


def rectangle(x: float, y: float, width: float, height: float, fill: str, hint: str) -> str:
    """A filled rectangle that shows ``hint`` under the pointer."""
    return (
        f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="2" fill="{fill}">'
        f"<title>{escape(hint, quote=False)}</title></rect>"
    )


def dot(x: float, y: float, fill: str, glyph: str, hint: str) -> str:
    """A mark at a point: the character ``glyph``, so that the marks differ not only in colour."""
    return (
        f'<text x="{x:.1f}" y="{y + 4:.1f}" class="middle" style="fill:{fill}">{glyph}'
        f"<title>{escape(hint, quote=False)}</title></text>"
    )


def line(points: Sequence[tuple[float, float]], css_class: str) -> str:
    """A line through points."""
    return f'<polyline class="{css_class}" points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in points)}"/>'


class LogScale:
    """Maps values to pixels on a logarithmic axis, with ticks at decades (1, 2, 5 where there are few)."""

    def __init__(self, values: Iterable[float], start: float, end: float) -> None:
        logs = [math.log10(value) for value in values]
        self.low, self.high = min(logs) - 0.1, max(logs) + 0.1
        self.start, self.end = start, end

    def __call__(self, value: float) -> float:
        share = (math.log10(value) - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)

    def ticks(self) -> list[float]:
        return log_ticks(10**self.low, 10**self.high, LEAST_TICKS)


class LinearScale:
    """Maps values to pixels on a linear axis, with a handful of round ticks."""

    def __init__(self, values: Iterable[float], start: float, end: float) -> None:
        values = list(values)
        self.low, self.high = min(values), max(values)
        if self.high == self.low:
            self.low, self.high = self.low - 0.5, self.high + 0.5
        self.start, self.end = start, end

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)

    def ticks(self) -> list[float]:
        """Round values inside the axis.

        >>> LinearScale([0.0, 0.93], 0, 100).ticks()
        [0.0, 0.2, 0.4, 0.6, 0.8]
        """
        rough = (self.high - self.low) / 5
        step = next(s for s in (m * 10.0 ** math.floor(math.log10(rough)) for m in (1, 2, 5, 10)) if s >= rough)
        first = math.ceil(self.low / step)
        return [round(step * n, 12) for n in range(first, math.floor(self.high / step) + 1)]
