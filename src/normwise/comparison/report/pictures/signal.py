"""The signal at the input of each normalization site."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean

from ...verdicts.cells import Row, title
from ..palette import Style
from .figure import Picture, empty_figure, label, line, use_log_scale

MOMENTS = {"squared_mean": "Squared channel mean", "variance": "Channel variance"}
TIMES = {"start": "at initialization", "end": "after training"}


def sites(rows: Sequence[Row]) -> list[str]:
    """The names of the normalization sites, in the order in which the model has them."""
    return list(dict.fromkeys(layer["name"] for row in rows for layer in row["layers"]))


def signal(rows: Sequence[Row], batch_size: int, moment: str, time: str, styles: Mapping[str, Style]) -> Picture:
    """A moment of `MOMENTS` at a time of `TIMES`, per site, on a logarithmic scale; the mean over the seeds."""
    names = sites(rows)
    rows = [row for row in rows if row["batch_size"] == batch_size]
    figure = empty_figure("normalization site")
    figure.update_xaxes(dtick=max(1, math.ceil(len(names) / 12)), range=[0.5, len(names) + 0.5])
    # Both times share a range, so that their pictures can be compared.
    use_log_scale(figure, [layer[t][moment] for row in rows for layer in row["layers"] for t in TIMES])
    words = []
    for norm in dict.fromkeys(row["norm"] for row in rows):
        points = _means([row for row in rows if row["norm"] == norm], moment, time)
        if points:
            xs, ys = [names.index(name) + 1 for name in points], list(points.values())
            hover = [f"{label(title(norm))}, {label(name)}<br>%{{y:.3g}}<extra></extra>" for name in points]
            figure.add_trace(line(norm, xs, ys, styles[norm], hover))
            words.append(f"{title(norm)} {ys[0]:.2g} to {ys[-1]:.2g}")
    name = f"{MOMENTS[moment]}, {TIMES[time]}"
    alt = f"{name}, batch size {batch_size}. First to last site: {', '.join(words) or 'no finite value'}."
    return Picture(name, alt, figure)


def _means(rows: Sequence[Row], moment: str, time: str) -> dict[str, float]:
    found: dict[str, list[float]] = {}
    for row in rows:
        for layer in row["layers"]:
            if layer[time][moment]:  # neither missing nor the zero that a logarithmic scale cannot show
                found.setdefault(layer["name"], []).append(layer[time][moment])
    return {name: fmean(values) for name, values in found.items()}
