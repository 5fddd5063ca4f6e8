"""Charts of experiments: lines over numbers, and bars; each says in words what it shows."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from html import escape, unescape

from ..pages import svg
from ..pages.palette import SERIES

WIDTH, HEIGHT = 720, 360
LEFT, RIGHT, TOP, BOTTOM = 64, 200, 52, 46
CHARACTER = 6.8  # pixels of one, on average
GLYPHS = "●■◆▲▼★○□◇△"
BAR = 18


#: The points (x, y) of a line, or (x, y, half the length of its error bar).
Point = tuple[float, float] | tuple[float, float, float]
Line = Sequence[Point]


def lines(title: str, x: str, y: str, series: Mapping[str, Line], *, log_x: bool = True, log_y: bool = False) -> str:
    """Lines, one colour and glyph each, named at the right; points that are not finite are left out."""
    series = {name: [point for point in line if math.isfinite(point[1])] for name, line in series.items()}
    series = {name: line for name, line in series.items() if line}
    xs = [point[0] for line in series.values() for point in line]
    ys = [end for line in series.values() for point in line for end in _ends(point, log_y)]
    across = (svg.LogScale if log_x else svg.LinearScale)(xs, LEFT, WIDTH - RIGHT)
    up = (svg.LogScale if log_y else svg.LinearScale)(ys, HEIGHT - BOTTOM, TOP)
    parts = [
        svg.text(8, 20, title),
        svg.text(LEFT, TOP - 8, y, "quiet"),
        svg.text(WIDTH - RIGHT, HEIGHT - 8, x, "end quiet"),
    ]
    for tick in up.ticks():
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{up(tick):.1f}" y2="{up(tick):.1f}"/>')
        parts.append(svg.text(LEFT - 6, up(tick) + 4, f"{tick:g}", "end quiet"))
    parts += [svg.text(across(tick), HEIGHT - BOTTOM + 18, f"{tick:g}", "middle quiet") for tick in sorted(set(xs))]
    names = _apart({name: up(line[-1][1]) for name, line in series.items()})
    for i, (name, line) in enumerate(series.items()):
        color, glyph = SERIES[i % len(SERIES)], GLYPHS[i % len(GLYPHS)]
        places = [(across(point[0]), up(point[1])) for point in line]
        parts.append(f'<polyline fill="none" stroke="{color}" stroke-width="1.5" points="{_points(places)}"/>')
        for (px, py), point in zip(places, line, strict=True):
            top, bottom = (up(end) for end in _ends(point, log_y))
            if len(point) == 3:
                parts.append(f'<path stroke="{color}" d="M{px:.1f} {top:.1f}V{bottom:.1f}"/>')
            spread = f" ± {point[2]:.2g}" if len(point) == 3 else ""
            parts.append(svg.dot(px, py, color, glyph, f"{name}, {x} {point[0]:g}: {point[1]:.4g}{spread}"))
        parts.append(
            f'<text x="{WIDTH - RIGHT + 10}" y="{names[name] + 4:.1f}" style="fill:{color}">'
            f"{glyph} {escape(name, quote=False)}</text>"
        )
    said = "; ".join(
        f"{name}: {', '.join(f'{point[1]:.3g} at {point[0]:g}' for point in line)}" for name, line in series.items()
    )
    return svg.document(WIDTH, HEIGHT, parts, f"{title}. {y} against {x}. {said}.")


def bars(
    title: str, x: str, values: Mapping[str, tuple[float, float]], *, log: bool = False, group: str | None = None
) -> str:
    """A bar for each name, with its value and spread in figures; zeros of a logarithmic axis have no bar.

    Names that end alike behind `group`, such as ": ", stand together, and what begins alike has one colour.
    """
    heads = [name.partition(group)[0] if group else name for name in values]
    colors = {head: SERIES[i % len(SERIES)] for i, head in enumerate(dict.fromkeys(heads))}
    tails = [name.partition(group)[2] if group else "" for name in values]
    height = TOP + len(values) * (BAR + 8) + 10 * (len(set(tails)) - 1) + BOTTOM
    room = 20 + CHARACTER * max(map(len, values))
    positive = [value + spread * (not log) for value, spread in values.values() if value > 0] or [1.0]
    scale = svg.LogScale(positive, room, WIDTH - 110) if log else svg.LinearScale([0.0, *positive], room, WIDTH - 110)
    parts = [svg.text(8, 20, title), svg.text(WIDTH - 110, height - 12, x, "end quiet")]
    for i, (name, (value, spread)) in enumerate(values.items()):
        top = TOP + i * (BAR + 8) + 10 * (len(dict.fromkeys(tails[: i + 1])) - 1)
        shown = f"{value:.3g}" + (f" ± {spread:.2g}" if spread else "")
        end = scale(value) if value > 0 else room
        parts.append(svg.text(room - 8, top + 13, name, "end"))
        parts.append(svg.rectangle(room, top, max(1.0, end - room), BAR, colors[heads[i]], f"{name}: {shown}"))
        right = end
        if spread and not log:
            left, right = scale(max(0.0, value - spread)), scale(value + spread)
            parts.append(f'<path class="roof" d="M{left:.1f} {top + BAR / 2:g}H{right:.1f}"/>')
        parts.append(svg.text(max(room + 1, end, right) + 6, top + 13, shown))
    said = "; ".join(f"{name} {value:.3g}" for name, (value, _) in values.items())
    return svg.document(WIDTH, height, parts, f"{title}. {x}: {said}.")


def stacked(first: str, second: str) -> str:
    """Two pictures, one below the other."""
    sizes, labels = [], []
    for picture in (first, second):
        head = picture.partition(">")[0]
        sizes.append([float(found) for found in re.findall(r' (?:width|height)="([\d.]+)"', head)])
        labels.append(re.findall(r'aria-label="([^"]*)"', head)[0])
    moved = second.replace("<svg ", f'<svg y="{sizes[0][1]:g}" ', 1)
    width, height = max(size[0] for size in sizes), sum(size[1] for size in sizes)
    return svg.document(width, height, [first, moved], " ".join(map(unescape, labels)))


def _ends(point: Point, log: bool) -> tuple[float, float]:
    """Of a point's error bar; on a logarithmic axis it stays above zero."""
    half = point[2] if len(point) == 3 else 0.0
    low = point[1] - half
    return (low if low > 0 or not log else point[1], point[1] + half)


def _points(places: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in places)


def _apart(places: Mapping[str, float], least: float = 15.0) -> dict[str, float]:
    """Names moved down where they would lie on each other, and up where they would leave the picture."""
    found: dict[str, float] = {}
    below = -1e9
    for name, place in sorted(places.items(), key=lambda item: item[1]):
        below = max(place, below + least)
        found[name] = below
    lifted = max(0.0, below - (HEIGHT - BOTTOM))
    return {name: place - lifted for name, place in found.items()}
