"""Charts of experiments: lines and bars, each with a description in words."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from html import escape, unescape
from textwrap import wrap

from ..pages import svg
from ..pages.palette import SERIES

WIDTH, HEIGHT = 560, 320  # narrow enough to be read on a phone
LEFT, RIGHT, TOP, BOTTOM = 52, 190, 52, 46
CHARACTER = 6.8  # pixels of one, on average
GLYPHS = "●■◆▲▼★○□◇△"
BAR = 18
LETTERS = 60  # of a claim in a line


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

    `group` is a separator such as ": ": names with the same part behind it are grouped under that part, and names with
    the same part before it have one colour.
    """
    heads = [name.partition(group)[0] if group else name for name in values]
    tails = [name.partition(group)[2] if group else "" for name in values]
    colors = {head: SERIES[i % len(SERIES)] for i, head in enumerate(dict.fromkeys(heads))}
    room = 20 + CHARACTER * max(map(len, heads))
    end = WIDTH - 14 - CHARACTER * max(len(_figures(*found)) for found in values.values())
    positive = [value + spread * (not log) for value, spread in values.values() if value > 0] or [1.0]
    scale = svg.LogScale(positive, room, end) if log else svg.LinearScale([0.0, *positive], room, end)
    parts, top = [svg.text(8, 20, title)], TOP - 16
    for i, (name, (value, spread)) in enumerate(values.items()):
        if tails[i] and tails[i] not in tails[:i]:
            parts.append(svg.text(8, top + 15, tails[i], "quiet"))
            top += BAR + 4
        parts += _bar(heads[i], name, top, value, spread, colors[heads[i]], scale, room, log)
        top += BAR + 8
    height = top + 32
    parts.append(svg.text(WIDTH - 8, height - 12, x, "end quiet"))
    said = "; ".join(f"{name} {value:.3g}" for name, (value, _) in values.items())
    return svg.document(WIDTH, height, parts, f"{title}. {x}: {said}.")


def _bar(
    head: str,
    name: str,
    top: float,
    value: float,
    spread: float,
    color: str,
    scale: svg.LogScale | svg.LinearScale,
    room: float,
    log: bool,
) -> list[str]:
    shown = _figures(value, spread)
    end = right = scale(value) if value > 0 else room
    parts = [svg.text(room - 8, top + 13, head, "end")]
    parts.append(svg.rectangle(room, top, max(1.0, end - room), BAR, color, f"{name}: {shown}"))
    if spread and not log:
        left, right = scale(max(0.0, value - spread)), scale(value + spread)
        parts.append(f'<path class="roof" d="M{left:.1f} {top + BAR / 2:g}H{right:.1f}"/>')
    return [*parts, svg.text(max(room + 1, end, right) + 6, top + 13, shown)]


def _figures(value: float, spread: float) -> str:
    return f"{value:.3g}" + (f" ± {spread:.2g}" if spread else "")


def stacked(first: str, second: str) -> str:
    """Combine two pictures, one below the other."""
    sizes, labels = [], []
    for picture in (first, second):
        head = picture.partition(">")[0]
        sizes.append([float(found) for found in re.findall(r' (?:width|height)="([\d.]+)"', head)])
        labels.append(re.findall(r'aria-label="([^"]*)"', head)[0])
    moved = second.replace("<svg ", f'<svg y="{sizes[0][1]:g}" ', 1)
    width, height = max(size[0] for size in sizes), sum(size[1] for size in sizes)
    return svg.document(width, height, [first, moved], " ".join(map(unescape, labels)))


def headed(picture: str, claim: str, verdict: str, note: str) -> str:
    """A picture with a heading: the claim, the verdict, and the meaning of the error bars."""
    claimed = wrap(claim, LETTERS)
    parts = [
        f'<text x="8" y="{22 + 18 * i}" style="font-size:14px;font-weight:bold">{escape(part, quote=False)}</text>'
        for i, part in enumerate(claimed)
    ]
    below = 22 + 18 * len(claimed)
    found = wrap(f"Found: {verdict}.", round(WIDTH / CHARACTER))
    parts += [svg.text(8, below + 2 + 16 * i, part) for i, part in enumerate(found)]
    parts.append(svg.text(8, below + 2 + 16 * len(found), note, "quiet"))
    height = below + 14 + 16 * len(found)
    return stacked(svg.document(WIDTH, height, parts, f"{claim}: {verdict}."), picture)


def _ends(point: Point, log: bool) -> tuple[float, float]:
    """The ends of a point's error bar; on a logarithmic axis they stay above zero."""
    half = point[2] if len(point) == 3 else 0.0
    low = point[1] - half
    return (low if low > 0 or not log else point[1], point[1] + half)


def _points(places: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in places)


def _apart(places: Mapping[str, float], least: float = 15.0) -> dict[str, float]:
    """Positions of names, moved down so that they do not overlap, and up so that they stay in the picture."""
    found: dict[str, float] = {}
    below = -1e9
    for name, place in sorted(places.items(), key=lambda item: item[1]):
        below = max(place, below + least)
        found[name] = below
    lifted = max(0.0, below - (HEIGHT - BOTTOM))
    return {name: place - lifted for name, place in found.items()}
