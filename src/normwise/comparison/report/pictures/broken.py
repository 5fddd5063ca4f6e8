"""An axis in two pieces, so that failed runs do not squeeze all others into a narrow range."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import plotly.graph_objects as go

from ....pages.palette import LIGHT

# The lower piece of the axis, the gap and the upper piece, as shares of the height.
LOWER, UPPER = (0.0, 0.2), (0.28, 1.0)
# An axis is worth breaking where the gap takes more than half of it, and at most a third of the values lie below.
GAP, FEW = 0.5, 1 / 3


class Break(NamedTuple):
    """The highest value below the gap and the lowest above it."""

    below: float
    above: float


def break_of(values: Sequence[float], least: float) -> Break | None:
    """Where the axis of `values` is broken, or None; gaps smaller than `least` are never cut out.

    >>> break_of([97.0, 96.0, 95.0, 96.5, 10.0], 10.0), break_of([97.0, 90.0, 80.0, 70.0], 10.0)
    (Break(below=10.0, above=95.0), None)
    """
    ordered = sorted(values)
    most_below = int(FEW * len(ordered))
    pairs = [Break(*pair) for pair in pairwise(ordered[: most_below + 1])]
    widest = max(pairs, key=lambda pair: pair.above - pair.below, default=None)
    if widest is None or widest.above - widest.below < max(least, GAP * (ordered[-1] - ordered[0])):
        return None
    return widest


def break_axis(figure: go.Figure, values: Sequence[float], broken: Break) -> None:
    """Show the values below the gap in a separate strip; lines to them end at the lower edge of the upper piece."""
    low = [value for value in values if value <= broken.below]
    high = [value for value in values if value >= broken.above]
    layout: Any = figure.layout
    traces: Any = figure.data
    common = layout.yaxis.to_plotly_json()
    figure.update_yaxes(domain=UPPER, range=padded(high))
    figure.update_layout(yaxis2=common | {"domain": LOWER, "range": padded(low), "nticks": 3, "anchor": "x"})
    figure.update_layout(xaxis={"anchor": "y2"})
    below = [trace for trace in traces if any(y is not None and y <= broken.below for y in trace.y)]
    for trace in below:
        twin = go.Scatter(trace, yaxis="y2")
        twin.update(mode="markers")
        figure.add_trace(twin)
    for height in (LOWER[1], UPPER[0]):
        figure.add_shape(
            type="line",
            xref="paper",
            yref="paper",
            x0=0,
            x1=1,
            y0=height,
            y1=height,
            line={"color": LIGHT["quiet"], "width": 1, "dash": "dot"},
        )


def padded(values: Sequence[float]) -> list[float]:
    """A range with some room around the values."""
    low, high = min(values), max(values)
    margin = max(0.5, 0.06 * (high - low))
    return [low - margin, high + margin]
