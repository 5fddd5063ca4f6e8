"""The metric against the cost of a training step, with the Pareto front."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import plotly.graph_objects as go

from ....pages.palette import LIGHT, SERIES
from ...verdicts.cells import title
from ...verdicts.tables import Table, titled
from ..palette import Style
from .figure import Picture, empty_figure, label, use_log_scale

RING = 19


class Point(NamedTuple):
    """A contestant at one batch size, in the units of the tables."""

    norm: str
    cost: float
    value: float


def pareto(judged: Table, cost: Table, batch_size: int, styles: Mapping[str, Style]) -> Picture | None:
    """The metric upwards, the cost to the right; a ring marks the front. None if no contestant has both."""
    points = _points(judged, cost, batch_size)
    if not points:
        return None
    best = front(points, -1 if judged.quantity.judged and judged.quantity.judged.direction == "min" else 1)
    figure = empty_figure(titled(cost.quantity))
    figure.add_trace(_rings(best))
    for point in points:
        figure.add_trace(_marker(point, judged, cost, styles[point.norm]))
    use_log_scale(figure, [point.cost for point in points], figure.update_xaxes)
    figure.update_xaxes(showgrid=True, gridcolor=LIGHT["grid"])
    name = f"{judged.quantity.title} and {cost.quantity.title.lower()} at batch size {batch_size}"
    return Picture(name, f"{name}. None is better and cheaper than {_in_words(best, judged, cost)}.", figure)


def front(points: list[Point], sign: int) -> list[Point]:
    """The Pareto front, cheapest first: no other point is better in one of the two and as good in the other. `sign` is
    1 if more of the metric is better, else -1.

    >>> points = [Point("a", 1.0, 0.8), Point("b", 2.0, 0.9), Point("c", 2.5, 0.85)]
    >>> [point.norm for point in front(points, 1)], [point.norm for point in front(points, -1)]
    (['a', 'b'], ['a'])
    """

    def beaten(point: Point) -> bool:
        scores = [(-other.cost, sign * other.value) for other in points]
        own = (-point.cost, sign * point.value)
        return any(other != own and other[0] >= own[0] and other[1] >= own[1] for other in scores)

    return sorted((point for point in points if not beaten(point)), key=lambda point: point.cost)


def _points(judged: Table, cost: Table, batch_size: int) -> list[Point]:
    found = []
    for norm in judged.norms:
        cell = judged.summary.cell(norm, batch_size)
        value, price = judged.value(cell), cost.value(cell)
        if value is not None and price and cell is not None and cell.diverged < cell.n:
            found.append(Point(norm, price, value))
    return found


def _rings(best: list[Point]) -> go.Scatter:
    """The front as a line through rings, behind the markers."""
    return go.Scatter(
        x=[point.cost for point in best],
        y=[point.value for point in best],
        mode="lines+markers",
        line={"color": SERIES[4], "width": 1, "dash": "dot"},
        marker={"symbol": "circle-open", "size": RING, "color": SERIES[4], "line": {"width": 1.5}},
        hoverinfo="skip",
    )


def _marker(point: Point, judged: Table, cost: Table, style: Style) -> go.Scatter:
    figures = (
        f"{titled(table.quantity)}: {table.number(value)}"
        for table, value in ((judged, point.value), (cost, point.cost))
    )
    return go.Scatter(
        x=[point.cost],
        y=[point.value],
        mode="markers",
        meta=point.norm,
        marker={"color": style.color, "symbol": style.symbol, "size": 10},
        hovertemplate="<br>".join((label(title(point.norm)), *map(label, figures))) + "<extra></extra>",
    )


def _in_words(best: list[Point], judged: Table, cost: Table) -> str:
    return "; ".join(
        f"{title(point.norm)} ({judged.number(point.value)} {judged.quantity.unit}, "
        f"{cost.number(point.cost)} {cost.quantity.unit})"
        for point in best
    ).replace(" ,", ",")
