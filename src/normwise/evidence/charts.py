"""Charts of experiments: lines over numbers, and bars; each says in words what it shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from ..pages import svg
from ..pages.palette import SERIES

WIDTH, HEIGHT = 720, 360
LEFT, RIGHT, TOP, BOTTOM = 64, 200, 52, 46
CHARACTER = 6.8  # pixels of one, on average
GLYPHS = "●■◆▲▼★○□◇△"
BAR = 18


#: The points (x, y) of a line.
Line = Sequence[tuple[float, float]]


def lines(title: str, x: str, y: str, series: Mapping[str, Line], *, log_x: bool = True, log_y: bool = False) -> str:
    """Lines, one colour and glyph each, named at the right."""
    xs = [point[0] for line in series.values() for point in line]
    ys = [point[1] for line in series.values() for point in line]
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
        places = [(across(px), up(py)) for px, py in line]
        parts.append(f'<polyline fill="none" stroke="{color}" stroke-width="1.5" points="{_points(places)}"/>')
        for (px, py), (value_x, value_y) in zip(places, line, strict=True):
            parts.append(svg.dot(px, py, color, glyph, f"{name}, {x} {value_x:g}: {value_y:.4g}"))
        parts.append(
            f'<text x="{WIDTH - RIGHT + 10}" y="{names[name] + 4:.1f}" style="fill:{color}">'
            f"{glyph} {escape(name, quote=False)}</text>"
        )
    said = "; ".join(f"{name}: {', '.join(f'{py:.3g} at {px:g}' for px, py in line)}" for name, line in series.items())
    return svg.document(WIDTH, HEIGHT, parts, f"{title}. {y} against {x}. {said}.")


def bars(title: str, x: str, values: Mapping[str, tuple[float, float]], *, log: bool = False) -> str:
    """A bar for each name, with its value and spread in figures; zeros of a logarithmic axis have no bar."""
    height, room = TOP + len(values) * (BAR + 8) + BOTTOM, 20 + CHARACTER * max(map(len, values))
    positive = [value for value, _ in values.values() if value > 0] or [1.0]
    scale = svg.LogScale(positive, room, WIDTH - 110) if log else svg.LinearScale([0.0, *positive], room, WIDTH - 110)
    parts = [svg.text(8, 20, title), svg.text(WIDTH - 110, height - 12, x, "end quiet")]
    for i, (name, (value, spread)) in enumerate(values.items()):
        top = TOP + i * (BAR + 8)
        shown = f"{value:.3g}" + (f" ± {spread:.2g}" if spread else "")
        end = scale(value) if value > 0 else room
        parts.append(svg.text(room - 8, top + 13, name, "end"))
        parts.append(svg.rectangle(room, top, max(1.0, end - room), BAR, SERIES[i % len(SERIES)], f"{name}: {shown}"))
        parts.append(svg.text(max(room + 1, end) + 6, top + 13, shown))
    said = "; ".join(f"{name} {value:.3g}" for name, (value, _) in values.items())
    return svg.document(WIDTH, height, parts, f"{title}. {x}: {said}.")


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
