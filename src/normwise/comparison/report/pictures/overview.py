"""A quantity against the batch size."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import plotly.graph_objects as go

from ....pages.palette import LIGHT
from ...verdicts.cells import Row, title
from ...verdicts.tables import GAPS, Table, titled
from ..palette import Style
from .broken import break_axis, break_of, padded
from .figure import ENDED, HEIGHT, Picture, empty_figure, label, line, use_log_scale

# Horizontal distance between two contestants at a batch size, and the most for all of them; batch sizes are 1 apart.
DODGE, MOST_DODGE = 0.07, 0.42
SMALL_HEIGHT = 190
# In points of accuracy: for a smaller gap the axis is not broken.
LEAST_GAP = 10.0
# From this ratio of the worst run to the best, a metric for which less is better has a logarithmic scale.
WIDE = 10.0


def against_batch_size(table: Table, rows: Sequence[Row], styles: Mapping[str, Style]) -> Picture:
    """The means of a table with error bars of one standard deviation; for accuracy and gap also the single runs.

    If a few values lie far below all others, the axis is broken between them.
    """
    figure = _frame(table, HEIGHT)
    apart = min(DODGE, MOST_DODGE / len(table.norms))
    for i, norm in enumerate(table.norms):
        # Side by side, so that equal values do not hide each other.
        xs = [place + apart * (i - (len(table.norms) - 1) / 2) for place in range(len(table.batch_sizes))]
        if (field := table.quantity.row_field) is not None:
            figure.add_trace(_single_runs(table, field, norm, rows, xs, styles[norm]))
        figure.add_trace(_means(table, norm, xs, styles[norm]))
    _scale(figure, table, rows)
    return Picture(titled(table.quantity), _in_words(table), figure)


def one_by_one(table: Table, rows: Sequence[Row], styles: Mapping[str, Style]) -> list[Picture]:
    """A small picture for each normalizer, with all others in grey behind it."""
    places = list(range(len(table.batch_sizes)))
    shown = []
    for norm in table.norms:
        figure = _frame(table, SMALL_HEIGHT)
        for other in table.norms:
            if other != norm:
                figure.add_trace(_backdrop(table, other, places))
        if (field := table.quantity.row_field) is not None:
            figure.add_trace(_single_runs(table, field, norm, rows, places, styles[norm]))
        figure.add_trace(_means(table, norm, places, styles[norm]))
        _scale(figure, table, rows)
        shown.append(Picture(title(norm), f"{title(norm)}: {_in_words(table, [norm])}", figure))
    return shown


def _frame(table: Table, height: int) -> go.Figure:
    figure, places = empty_figure("batch size"), range(len(table.batch_sizes))
    figure.update_layout(height=height)
    figure.update_xaxes(tickvals=list(places), ticktext=[str(size) for size in table.batch_sizes])
    figure.update_xaxes(range=[-0.5, len(places) - 0.5])
    if table.quantity in GAPS:
        figure.update_yaxes(zeroline=True, zerolinecolor=LIGHT["quiet"])
    return figure


def _scale(figure: go.Figure, table: Table, rows: Sequence[Row]) -> None:
    """The vertical axis: the same for every picture of a table."""
    means = [value for cell in table.summary.cells if (value := table.value(cell)) is not None]
    metric = table.quantity.judged
    if table.quantity.row_field is None:
        use_log_scale(figure, means)
    if metric is None or not means:
        return
    runs = [value * table.quantity.factor for row in rows if (value := metric.of(row)) is not None]
    if not metric.share:
        if metric.direction == "min" and min(runs) > 0 and max(runs) > WIDE * min(runs):
            use_log_scale(figure, runs)
        return
    broken = break_of([*runs, *means], LEAST_GAP)
    if broken is None:
        figure.update_yaxes(range=padded(_ends(table)))
    else:
        break_axis(figure, [*_ends(table), *runs], broken)


def _backdrop(table: Table, norm: str, places: Sequence[int]) -> go.Scatter:
    values = [table.value(table.summary.cell(norm, size)) for size in table.batch_sizes]
    return go.Scatter(
        x=list(places),
        y=values,
        mode="lines",
        meta=norm,
        line={"color": LIGHT["line"], "width": 1.25},
        hoverinfo="skip",
    )


def _means(table: Table, norm: str, xs: Sequence[float], style: Style) -> go.Scatter:
    cells = [table.summary.cell(norm, size) for size in table.batch_sizes]
    hover = [
        f"{label(title(norm))}, batch size {size}<br>{table.text(norm, size)} {table.quantity.unit}"
        + (f"<br>{cell.diverged} of {cell.n} runs diverged" if cell and cell.diverged else "")
        + "<extra></extra>"
        for size, cell in zip(table.batch_sizes, cells, strict=True)
    ]
    trace = line(norm, xs, [table.value(cell) for cell in cells], style, hover)
    spreads = [table.spread(cell) or 0.0 for cell in cells]
    if any(spreads):
        values = [table.value(cell) or 0.0 for cell in cells]
        low, high = _bounds(table)
        up = [min(spread, high - value) for spread, value in zip(spreads, values, strict=True)]
        down = [min(spread, value - low) for spread, value in zip(spreads, values, strict=True)]
        bars = {"type": "data", "symmetric": False, "array": up, "arrayminus": down}
        trace.error_y = bars | {"thickness": 1.5, "width": 4, "color": style.color}
    return trace


def _single_runs(
    table: Table, field: str, norm: str, rows: Sequence[Row], xs: Sequence[float], style: Style
) -> go.Scatter:
    place = dict(zip(table.batch_sizes, xs, strict=True))
    runs = [row for row in rows if row["norm"] == norm and row[field] is not None]
    ended = [row["status"] == "diverged" for row in runs]
    return go.Scatter(
        x=[place[row["batch_size"]] for row in runs],
        y=[row[field] * table.quantity.factor for row in runs],
        mode="markers",
        meta=norm,
        marker={
            "symbol": [ENDED if e else "circle" for e in ended],
            "size": [11 if e else 4 for e in ended],
            "color": style.color,
            "opacity": [1 if e else 0.55 for e in ended],
            "line": {"color": style.color, "width": [2.5 if e else 0 for e in ended]},
        },
        text=[_run_label(row) for row in runs],
        hovertemplate="%{text}: " + f"%{{y:.{table.decimals}f}} {table.quantity.unit}" + "<extra></extra>",
    )


def _run_label(row: Row) -> str:
    what = label(row["message"]) or "one run"
    return f"{label(title(row['norm']))}, batch size {row['batch_size']}, seed {row['seed']}<br>{what}"


def _ends(table: Table) -> list[float]:
    """Where the error bars of the metric end."""
    cells, (low, high) = table.summary.cells, _bounds(table)
    ends = [(table.value(cell) or 0.0) + sign * (table.spread(cell) or 0.0) for cell in cells for sign in (-1, 1)]
    return [min(high, max(low, end)) for end in ends]


def _bounds(table: Table) -> tuple[float, float]:
    """No accuracy is below 0 or above 100 %."""
    return (0.0, 100.0) if table.quantity.factor == 100 else (-math.inf, math.inf)


def _in_words(table: Table, norms: Sequence[str] | None = None) -> str:
    parts = [
        f"{title(norm)}: {', '.join(f'{table.text(norm, size)} at {size}' for size in table.batch_sizes)}"
        for norm in norms or table.norms
    ]
    return f"{titled(table.quantity)} against the batch size. {'; '.join(parts)}."
