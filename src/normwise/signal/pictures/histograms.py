"""Histograms of the activations layer by layer: how an initialization spreads or collapses them in a deep net."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from ..names import shortened
from ..records import Histogram, Tap, Trace
from .line_styles import line_style
from .scales import Scale
from .shapes import Panel, Path, Series, Shape, Text

WIDTH, ROW, TOP, BOTTOM = 440, 34, 14, 40
LEFT, RIGHT = 120, 74
ROWS_SHOWN = 12
# The share of all values inside the axis: a few outliers would compress all others into a line.
SHOWN = 0.99
NAME_LETTERS = 16


def panels(traces: Mapping[str, Trace], types: Sequence[str]) -> list[Panel]:
    """One panel per model with a common axis; one row per layer, the first on top."""
    chosen = {name: _rows(trace, types) for name, trace in traces.items()}
    reach = max((_reach(taps) for taps in chosen.values()), default=1.0)
    return [_panel(i, name, taps, reach) for i, (name, taps) in enumerate(chosen.items())]


def _rows(trace: Trace, types: Sequence[str]) -> list[Tap]:
    taps = [t for t in trace.layers if t.histogram and t.histogram.counts and (not types or t.type in types)]
    if len(taps) <= ROWS_SHOWN:
        return taps
    return [taps[round(i * (len(taps) - 1) / (ROWS_SHOWN - 1))] for i in range(ROWS_SHOWN)]


def _reach(taps: Sequence[Tap]) -> float:
    """The end of the axis, so that it contains the bulk of the widest layer."""
    return max((_bulk(tap.histogram) for tap in taps if tap.histogram), default=1.0)


def _bulk(histogram: Histogram) -> float:
    edges = histogram.edges
    bins = sorted(
        (max(abs(low), abs(high)), n) for low, high, n in zip(edges, edges[1:], histogram.counts, strict=False)
    )
    left = SHOWN * sum(histogram.counts)
    for reach, count in bins:
        left -= count
        if left <= 0:
            return reach
    return bins[-1][0]


def _panel(model: int, name: str, taps: Sequence[Tap], reach: float) -> Panel:
    height = TOP + ROW * max(len(taps), 1) + BOTTOM
    x = Scale(-reach, reach, LEFT, WIDTH - RIGHT)
    floor = height - BOTTOM
    shapes: list[Shape] = [Text(WIDTH - 6, TOP - 4, "variance", anchor="end")]
    for value, text in x.ticks():
        shapes += [
            Path(((x(value), TOP), (x(value), floor)), "grid"),
            Text(x(value), floor + 14, text, anchor="middle"),
        ]
    shapes.append(Text((x.start + x.end) / 2, floor + 31, "value of an activation", anchor="middle"))
    rows = [shape for i, tap in enumerate(taps) for shape in _row(tap, TOP + ROW * (i + 1), x, line_style(model).color)]
    variances = ", ".join(f"{tap.name} {tap.variance:.3g}" for tap in taps)
    return Panel(
        WIDTH, height, name, f"{name}, variance of each layer: {variances}.", (*shapes, Series(model, tuple(rows)))
    )


def _row(tap: Tap, floor: float, x: Scale, color: str) -> Iterator[Path | Text]:
    label = shortened(tap.name, NAME_LETTERS)
    yield Text(x.start - 8, floor - ROW / 3, label, anchor="end", size=12, whole=tap.name)
    if tap.histogram:
        yield Path(tuple(_outline(tap.histogram, floor, x)), color, fill=True)
    yield Path(((x.start, floor), (x.end, floor)), "quiet", 0.75)
    yield Text(WIDTH - 6, floor - ROW / 3, f"{tap.variance:.2g}", "ink", 12, "end")


def _outline(histogram: Histogram, floor: float, x: Scale) -> Iterator[tuple[float, float]]:
    """The outline of a histogram as steps; a collapsed layer is a spike of the full height."""
    highest = max(histogram.counts)
    edges = histogram.edges
    yield x(edges[0]), floor
    for low, high, count in zip(edges, edges[1:], histogram.counts, strict=False):
        if not (x.shows(low) or x.shows(high)):
            continue
        top = floor - 0.9 * ROW * count / highest
        # A bar thinner than a line would be invisible.
        yield x(low), top
        yield max(x(high), x(low) + 1.5), top
    yield x(edges[-1]), floor
