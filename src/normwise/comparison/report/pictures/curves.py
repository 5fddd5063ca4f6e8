"""Learning curves."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean

import plotly.graph_objects as go

from ...metric import metric_of
from ...verdicts.cells import Row, title
from ..palette import Style
from .figure import ENDED, Picture, empty_figure, label, line, use_log_scale

LOSS = "train_loss"


def learning_curves(rows: Sequence[Row], batch_size: int, field: str, styles: Mapping[str, Style]) -> Picture:
    """A field of the curves, such as `test_accuracy` or `train_loss`, per epoch: mean and range over the seeds.

    A diverged run has its own dotted line, with a cross where it ended.
    """
    rows = [row for row in rows if row["batch_size"] == batch_size]
    figure = empty_figure("epoch")
    figure.update_xaxes(dtick=max(1, math.ceil(max((row["epochs"] for row in rows), default=1) / 8)))
    ends, broken = [], []
    for norm in dict.fromkeys(row["norm"] for row in rows):
        of_norm = [row for row in rows if row["norm"] == norm]
        curves = [curve for row in of_norm if row["status"] == "finished" and (curve := _curve(row, field))]
        if curves:
            figure.add_traces(list(_mean_curve(norm, curves, styles[norm])))
            ends.append(f"{title(norm)} {fmean(curve[max(curve)] for curve in curves):.3g}")
        broken += [
            _broken_curve(row, field, styles[norm])
            for row in of_norm
            if row["status"] != "finished" and _curve(row, field)
        ]
    figure.add_traces(broken)
    if field == LOSS:
        use_log_scale(figure, [value for row in rows for value in _curve(row, field).values()])
    name = f"Batch size {batch_size}: {_title(rows, field)}"
    return Picture(name, f"{name}, per epoch. At the end: {', '.join(ends) or 'no finished run'}.", figure)


def _title(rows: Sequence[Row], field: str) -> str:
    metric = metric_of(rows)
    if field == metric.field:
        return f"{metric.title[0].lower()}{metric.title[1:]}{', %' if metric.share else ''}"
    return "training loss" if field == LOSS else field


def _curve(row: Row, field: str) -> dict[int, float]:
    metric = metric_of([row])
    factor = 100 if metric.share and field == metric.field else 1
    return {point["epoch"]: factor * point[field] for point in row["curve"] if point.get(field) is not None}


def _mean_curve(norm: str, curves: Sequence[Mapping[int, float]], style: Style) -> Iterator[go.Scatter]:
    epochs = sorted(set.intersection(*(set(curve) for curve in curves)))
    values = [[curve[epoch] for curve in curves] for epoch in epochs]
    if len(curves) > 1:
        yield go.Scatter(
            x=[*epochs, *reversed(epochs)],
            y=[*map(max, values), *map(min, reversed(values))],
            fill="toself",
            fillcolor=style.shade(0.13),
            line={"width": 0},
            mode="lines",
            meta=norm,
            hoverinfo="skip",
        )
    hover = f"{label(title(norm))}, epoch %{{x}}<br>%{{y:.3g}}<extra></extra>"
    yield line(norm, epochs, [fmean(value) for value in values], style, hover)


def _broken_curve(row: Row, field: str, style: Style) -> go.Scatter:
    curve = _curve(row, field)
    last = len(curve) - 1
    return go.Scatter(
        x=list(curve),
        y=list(curve.values()),
        mode="lines+markers",
        meta=row["norm"],
        line={"color": style.color, "width": 1.5, "dash": "dot"},
        marker={
            "symbol": ENDED,
            "size": [12 if i == last else 0 for i in range(len(curve))],
            "line": {"color": style.color, "width": [2.5 if i == last else 0 for i in range(len(curve))]},
        },
        hovertemplate=f"{label(title(row['norm']))}, seed {row['seed']}<br>{label(row['message'])}<extra></extra>",
    )
