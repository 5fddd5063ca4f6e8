"""The output of `normwise bench` in a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..progress_bar import ProgressBar
from .cases import DTYPES, LAYOUTS
from .measure import WRONG
from .storage import Row
from .summary import (
    DIRECTION_TITLES,
    FUSED,
    Figures,
    advantage,
    baseline,
    by_layer,
    by_memory,
    faulty,
    figures,
    place,
    slower,
    timed,
    title,
)

#: At this width or more there is room for one column per dtype and layout.
WIDE = 112
LISTED = 8
OTHERS = {"compiled_ms": "compiled", "autotuned_ms": "autotuned", "liger_ms": "liger", "quack_ms": "quack"}


class Ticker(ProgressBar):
    """Listener of a sweep: a progress bar in a terminal, one line per cell elsewhere."""

    def __call__(self, row: Row, done: int, total: int) -> None:
        """Show a finished cell."""
        if self.live:
            self.show(done, total, f"{title(row)}, {row['shape']}")
        else:
            self.say(f"[{done}/{total}] {place(row)}: {outcome(row)}")


def outcome(row: Row) -> str:
    """The result of a cell in words."""
    if row["status"] == WRONG:
        return f"wrong, error {row['error']}; not timed"
    if row["message"]:
        return f"failed: {row['message']}"
    return f"{row['ratio']} x {baseline(row)}, {row['x_of_floor']} x floor, error {row['error']}"


def show(console: Console, rows: Sequence[Row], files: Iterable[tuple[str, Path]]) -> None:
    """The table of layers, the cells slower than their baseline, the wrong ones, and the paths of the files."""
    good = timed(rows)
    if good:
        console.print(_machine(good[0]), style="dim", soft_wrap=True)
        console.print()
        for memory, members in by_memory(good).items():
            if memory:
                console.print(memory.capitalize(), style="bold")
            console.print(_table(members, wide=console.width >= WIDE))
            console.print()
        for line in _legend(good):
            console.print(line, style="dim")
    _list(console, "Slower than the baseline", slower(rows), lambda row: f"{row['ratio']}: {place(row)}")
    _list(console, "Wrong or failed", faulty(rows), lambda row: f"{place(row)}: {outcome(row)}")
    console.print()
    for name, path in files:
        console.print(f"{name}: {path}", soft_wrap=True)


def _machine(row: Row) -> str:
    parts = [row["machine"], f"torch {row['torch']}", f"commit {row['commit'] or 'unknown'}", f"{row['clock']} clock"]
    parts += [f"backend {row['backend']}", f"huge pages {row['huge_pages']}", row["allocator"]]
    return ", ".join(parts)


def _legend(rows: Sequence[Row]) -> list[str]:
    papers = any(baseline(row) == "paper" for row in rows)
    lines = [
        "fwd, both: native torch's time over ours, geometric means of the forward pass",
        "and of forward + backward; least: the smallest; floor: our time over the least",
        "time for the bytes, median over tensors of 1 MB and more.",
    ]
    if papers:
        lines.append("p: torch has no such layer; against the paper's equation in plain PyTorch.")
    return lines


def _table(rows: Sequence[Row], *, wide: bool) -> Table:
    """The table of layers, with columns for each dtype and layout if there is room."""
    directions = [d for d in DIRECTION_TITLES if any(row["direction"] == d for row in rows)]
    splits = _kinds(rows) if wide else []
    extra = {name: text for name, text in OTHERS.items() if any(row[name] for row in rows)}
    table = Table(box=None, padding=(0, 2, 0, 0), show_edge=False, header_style="bold", pad_edge=False)
    table.add_column("layer", no_wrap=True)
    for heading in ["", "cells", *_headings(directions), *extra.values(), *splits]:
        table.add_column(heading, justify="right", no_wrap=True)
    for name, members in by_layer(rows):
        cells = [
            f"  {name}" if name.startswith(FUSED) else name,
            "p" if baseline(members[0]) == "paper" else "",
            str(len(members)),
        ]
        for direction in directions:
            cells += _cells(figures([row for row in members if row["direction"] == direction]))
        cells += [_number(advantage(members, column)) for column in extra]
        for split in splits:
            of = figures([row for row in members if kind(row) == split])
            cells.append(_number(of.ratio if of else None))
        table.add_row(*(Text(cell) for cell in cells))
    return table


def _headings(directions: Sequence[str]) -> list[str]:
    short = {"forward": "fwd", "backward": "bwd", "both": "both"}
    return [text for d in directions for text in (short[d], "least", "floor")]


def _kinds(rows: Sequence[Row]) -> list[str]:
    order = list(DTYPES)
    ranked = sorted(rows, key=lambda row: (order.index(row["dtype"]), row["layout"] != LAYOUTS[0]))
    return list(dict.fromkeys(map(kind, ranked)))


def kind(row: Row) -> str:
    """Dtype and layout, in short: "fp32", "bf16 last"."""
    return row["dtype"] if row["layout"] == LAYOUTS[0] else f"{row['dtype']} last"


def _cells(found: Figures | None) -> list[str]:
    if found is None:
        return ["", "", ""]
    return [_number(found.ratio), _number(found.least), _number(found.floor)]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}" if value < 10 else f"{value:.1f}"


def _list(console: Console, heading: str, rows: Sequence[Row], text: Callable[[Row], str]) -> None:
    if not rows:
        return
    console.print()
    console.print(f"{heading}: {len(rows)} {'cell' if len(rows) == 1 else 'cells'}", style="bold")
    for row in rows[:LISTED]:
        console.print(f"  {text(row)}", soft_wrap=True)
    if len(rows) > LISTED:
        console.print(f"  and {len(rows) - LISTED} more", style="dim")
