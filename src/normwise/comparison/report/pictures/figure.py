"""Shared by all pictures: the empty figure and the line of a normalizer."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import plotly.graph_objects as go

from ....pages.palette import FONT, LIGHT
from ....pages.ticks import log_ticks
from ..palette import Style

ENDED = "x-thin"
HEIGHT = 320


@dataclass(frozen=True)
class Picture:
    """A figure, its title, and `alt`, the description for screen readers."""

    title: str
    alt: str
    figure: go.Figure


def label(text: str) -> str:
    """Escape text from data for plotly's labels, which interpret some HTML tags."""
    return escape(text, quote=False)


def empty_figure(x_title: str) -> go.Figure:
    """Axes without data. The title above the picture names the vertical axis; the page has one legend for all."""
    axis: dict[str, Any] = {"automargin": True, "fixedrange": True, "zeroline": False}
    return go.Figure(
        layout={
            "template": "none",
            "height": HEIGHT,
            "margin": {"l": 8, "r": 14, "t": 14, "b": 8},
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "font": {"family": FONT, "size": 13, "color": LIGHT["quiet"]},
            "showlegend": False,
            "dragmode": False,  # with the fixed ranges: a finger that moves over a picture scrolls the page
            "hovermode": "closest",
            "hoverlabel": {"bgcolor": LIGHT["page"], "bordercolor": LIGHT["quiet"], "font": {"color": LIGHT["ink"]}},
            "xaxis": axis | {"showgrid": False, "title": {"text": x_title, "standoff": 8, "font": {"size": 13}}},
            "yaxis": axis | {"gridcolor": LIGHT["grid"], "ticksuffix": " "},
        }
    )


def use_log_scale(figure: go.Figure, values: Iterable[float | None], update: Any = None) -> None:
    """Set a logarithmic axis around the positive `values`, with plain numbers at a few ticks: the vertical axis, or
    that of `update`, such as `figure.update_xaxes`."""
    positive = [value for value in values if value]
    if not positive:
        return
    low, high = math.log10(min(positive)) - 0.08, math.log10(max(positive)) + 0.08
    ticks = log_ticks(10**low, 10**high)
    axis = {"type": "log", "range": [low, high], "tickvals": ticks, "ticktext": [_plain(tick) for tick in ticks]}
    (update or figure.update_yaxes)(**axis)


def _plain(tick: float) -> str:
    return f"{tick:.6g}" if 1e-4 < tick < 1e6 else f"10<sup>{math.log10(tick):.0f}</sup>"


def line(
    norm: str, xs: Iterable[float], ys: Iterable[float | None], style: Style, hover: Sequence[str] | str
) -> go.Scatter:
    """The line of a normalizer with its markers; `meta` lets the page's legend find it."""
    return go.Scatter(
        x=list(xs),
        y=list(ys),
        mode="lines+markers",
        meta=norm,
        line={"color": style.color, "width": 1.75},
        marker={"color": style.color, "symbol": style.symbol, "size": 9, "maxdisplayed": 16},
        hovertemplate=hover,
    )
