"""The two pictures of a bench: the speed-up of every layer at every shape, and the bandwidth under the roof."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ..comparison.report.palette import Style, styles
from ..pages import svg
from .storage import Row
from .summary import DIRECTION_TITLES, FUSED, baseline, by_layer, groups, place, tensor_bytes, timed, title

CELL_WIDTH, CELL_HEIGHT, NAMES, HEAD = 46, 22, 160, 140
#: Ratios below 1 tend to orange, above 1 to blue; the text in the cell says the same.
_SLOWER, _EVEN, _FASTER = (230, 133, 62), (238, 240, 242), (92, 158, 214)
ROOF_WIDTH, ROOF_HEIGHT = 860, 420


def speed_up(rows: Sequence[Row]) -> str:
    """A table of coloured ratios: layers down, shapes across; for rows of one dtype, layout, direction and threads."""
    shapes = list(dict.fromkeys((row["net"], row["shape"]) for row in timed(rows)))
    layers = by_layer(timed(rows))
    parts: list[str] = []
    for i, (net, shape) in enumerate(shapes):
        x = NAMES + (i + 0.6) * CELL_WIDTH
        parts.append(svg.slanted(x, HEAD - 8, net, shape))
    for j, (name, members) in enumerate(layers):
        y = HEAD + j * CELL_HEIGHT
        fused = name.startswith(FUSED)
        parts.append(svg.text(14 if fused else 0, y + 15, name, "quiet" if fused else ""))
        for row in members:
            x = NAMES + shapes.index((row["net"], row["shape"])) * CELL_WIDTH
            parts += _cell(x, y, row)
    width = NAMES + len(shapes) * CELL_WIDTH + 120
    label = "Speed-up of each layer at each shape; the table in the CSV file holds the same numbers."
    return svg.document(width, HEAD + len(layers) * CELL_HEIGHT + 8, parts, label)


def _cell(x: float, y: float, row: Row) -> list[str]:
    ratio = float(row["ratio"])
    hint = f"{place(row)}: {row['ratio']} x {baseline(row)}, {row['x_of_floor']} x floor"
    shown = f"{ratio:.2f}" if ratio < 10 else f"{ratio:.0f}"
    middle = x + (CELL_WIDTH - 2) / 2
    return [
        svg.rectangle(x, y, CELL_WIDTH - 2, CELL_HEIGHT - 2, shade(ratio), hint),
        svg.text(middle, y + 15, shown, "middle onfill"),
    ]


def shade(ratio: float) -> str:
    """The colour of a ratio: neutral at 1, saturated at a quarter and at 8.

    >>> shade(1.0), shade(8.0)
    ('#eef0f2', '#5c9ed6')
    """
    step = math.log2(ratio)
    end, share = (_FASTER, step / 3) if step > 0 else (_SLOWER, -step / 2)
    share = min(share, 1.0)
    mixed = (round(a + (b - a) * share) for a, b in zip(_EVEN, end, strict=True))
    return "#" + "".join(f"{value:02x}" for value in mixed)


def roofline(rows: Sequence[Row]) -> str:
    """Achieved bandwidth (the floor's bytes over the time) against the size of the tensor, and the roof: a copy's."""
    rows = timed(rows)
    line_styles = styles(dict.fromkeys(row["layer"] for row in rows))
    megabytes = [tensor_bytes(row) / 2**20 for row in rows]
    rates = [float(row[name]) for row in rows for name in ("gb_per_s", "copy_gb_per_s")]
    x = svg.LogScale(megabytes, 64, ROOF_WIDTH - 200)
    y = svg.LogScale(rates, ROOF_HEIGHT - 48, 16)
    parts = _axes(x, y)
    parts.append(svg.line([(x(size), y(rate)) for size, rate in roof(rows)], "roof"))
    for row in rows:
        look = line_styles[row["layer"]]
        hint = f"{place(row)}: {row['gb_per_s']} GB/s of {row['copy_gb_per_s']}"
        point = x(tensor_bytes(row) / 2**20), y(float(row["gb_per_s"]))
        parts.append(svg.dot(*point, look.color, look.glyph, hint))
    parts += _legend(rows, line_styles)
    label = "Achieved bandwidth of each layer against the size of its tensor, below the bandwidth of a copy."
    return svg.document(ROOF_WIDTH, ROOF_HEIGHT, parts, label)


def roof(rows: Sequence[Row]) -> list[tuple[float, float]]:
    """The copy bandwidth in GB/s by size in MB: the median of the cells of each size."""
    by_size: dict[int, list[float]] = {}
    for row in rows:
        by_size.setdefault(tensor_bytes(row), []).append(float(row["copy_gb_per_s"]))
    return [(size / 2**20, sorted(found)[len(found) // 2]) for size, found in sorted(by_size.items())]


def _axes(x: svg.LogScale, y: svg.LogScale) -> list[str]:
    parts = []
    for tick in y.ticks():
        parts.append(f'<line class="grid" x1="{x.start}" x2="{x.end}" y1="{y(tick):.1f}" y2="{y(tick):.1f}"/>')
        parts.append(svg.text(x.start - 6, y(tick) + 4, f"{tick:g}", "end quiet"))
    parts += [svg.text(x(tick), y.start + 18, f"{tick:g}", "middle quiet") for tick in x.ticks()]
    parts.append(svg.text((x.start + x.end) / 2, y.start + 38, "activation tensor, MB", "middle quiet"))
    parts.append(svg.text(4, 12, "GB/s", "quiet"))
    return parts


def _legend(rows: Sequence[Row], line_styles: dict[str, Style]) -> list[str]:
    left = ROOF_WIDTH - 186
    parts = [svg.line([(left, 20), (left + 16, 20)], "roof"), svg.text(left + 24, 24, "copy of the tensor")]
    titles = {row["layer"]: title(row | {"activation": "", "residual": "0"}) for row in rows}
    for i, (layer, name) in enumerate(titles.items(), start=1):
        y = 20 + i * 20
        parts.append(svg.dot(left + 8, y, line_styles[layer].color, line_styles[layer].glyph, name))
        parts.append(svg.text(left + 24, y + 4, name))
    return parts


def panels(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """The timed rows of each picture, by direction, dtype, layout, threads and memory, in words."""

    def panel(row: Row) -> str:
        count = f", threads: {row['threads']}" if row["threads"] != "0" else ""
        memory = f", memory {row['memory']}" if row["memory"] else ""
        return f"{DIRECTION_TITLES[row['direction']]}, {row['dtype']}, {row['layout']}{count}{memory}"

    return groups(timed(rows), panel)
