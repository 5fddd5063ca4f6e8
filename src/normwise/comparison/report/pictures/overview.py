"""A quantity against the batch size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import plotly.graph_objects as go

from ....pages.palette import LIGHT
from ...cells import Row, title
from ...tables import ACCURACY, GAP, Table
from ..palette import Style
from .figure import ENDED, Picture, empty_figure, label, line, use_log_scale

DODGE = 0.07
ROW_FIELDS = {ACCURACY.field: "test_accuracy", GAP.field: "train_eval_gap"}


def against_batch_size(table: Table, rows: Sequence[Row], styles: Mapping[str, Style]) -> Picture:
    """The means of a table with error bars of one standard deviation; of accuracy and gap also the single runs."""
    quantity, places = table.quantity, range(len(table.batch_sizes))
    of_runs = quantity.field in ROW_FIELDS
    figure = empty_figure("batch size")
    figure.update_xaxes(tickvals=list(places), ticktext=[str(size) for size in table.batch_sizes])
    figure.update_xaxes(range=[-0.5, len(places) - 0.5])
    if quantity is GAP:
        figure.update_yaxes(zeroline=True, zerolinecolor=LIGHT["quiet"])
    for i, norm in enumerate(table.norms):
        # Side by side, so that equal values do not hide each other.
        xs = [place + DODGE * (i - (len(table.norms) - 1) / 2) for place in places]
        if of_runs:
            figure.add_trace(_single_runs(table, norm, rows, xs, styles[norm]))
        figure.add_trace(_means(table, norm, xs, styles[norm]))
    if quantity is ACCURACY:
        figure.update_yaxes(range=_within_percent(table))
    if not of_runs:
        use_log_scale(figure, [table.value(cell) for cell in table.summary.cells])
    return Picture(f"{quantity.title}, {quantity.unit}", _in_words(table), figure)


def _means(table: Table, norm: str, xs: Sequence[float], style: Style) -> go.Scatter:
    cells = [table.summary.cell(norm, size) for size in table.batch_sizes]
    hover = [
        f"{label(title(norm))}, batch size {size}<br>{table.text(norm, size)} {table.quantity.unit}"
        + (f"<br>{cell.diverged} of {cell.n} runs diverged" if cell and cell.diverged else "")
        + "<extra></extra>"
        for size, cell in zip(table.batch_sizes, cells, strict=True)
    ]
    trace = line(norm, xs, [table.value(cell) for cell in cells], style, hover)
    spreads = [table.spread(cell) for cell in cells]
    if any(spreads):
        trace.error_y = {"array": spreads, "thickness": 1.5, "width": 4, "color": style.color}
    return trace


def _single_runs(table: Table, norm: str, rows: Sequence[Row], xs: Sequence[float], style: Style) -> go.Scatter:
    field = ROW_FIELDS[table.quantity.field]
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
        hovertemplate="%{text}: %{y:.1f} " + table.quantity.unit + "<extra></extra>",
    )


def _run_label(row: Row) -> str:
    what = label(row["message"]) or "one run"
    return f"{label(title(row['norm']))}, batch size {row['batch_size']}, seed {row['seed']}<br>{what}"


def _within_percent(table: Table) -> list[float]:
    """Where accuracy is: an error bar may reach past 0 and 100 %, the axis does not."""
    cells = table.summary.cells
    ends = [(table.value(cell) or 0.0) + sign * (table.spread(cell) or 0.0) for cell in cells for sign in (-1, 1)]
    low, high = max(0.0, min(ends)), min(100.0, max(ends))
    margin = max(0.5, 0.06 * (high - low))
    return [low - margin, high + margin]


def _in_words(table: Table) -> str:
    parts = [
        f"{title(norm)}: {', '.join(f'{table.text(norm, size)} at {size}' for size in table.batch_sizes)}"
        for norm in table.norms
    ]
    return f"{table.quantity.title} in {table.quantity.unit} against the batch size. {'; '.join(parts)}."
