"""The small tables: host time per call, a whole training step, the bytes kept for the backward pass."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from .measure import OK, WRONG
from .step_nets import NETS
from .storage import Row
from .subjects import SUBJECTS
from .summary import DIRECTION_TITLES, faulty, groups, place, timed
from .terminal import kind, outcome


def show_overhead(console: Console, rows: Sequence[Row]) -> None:
    """Microseconds per call of a tiny tensor: torch's, ours, and the difference."""
    table = _table("layer", "pass", "native, µs", "ours, µs", "difference")
    for row in timed(rows):
        native, ours = (1e3 * float(row[name]) for name in ("native_ms", "ours_ms"))
        cells = (f"{native:.1f}", f"{ours:.1f}", f"{ours - native:+.1f}")
        table.add_row(SUBJECTS[row["layer"]].title, DIRECTION_TITLES[row["direction"]], *cells)
    console.print()
    console.print(table)
    for row in faulty(rows):
        console.print(f"{place(row)}: {outcome(row)}", soft_wrap=True)


def show_kept(console: Console, rows: Sequence[Row]) -> None:
    """Bytes kept for the backward pass for each value of the input, by a layer and the convolution behind it."""
    table = _table("layer", "activation", "type", "torch", "torch in place", "ours", "ours, lean")
    for row in rows:
        sizes = (row[name] or "-" for name in ("torch", "torch_in_place", "ours", "lean"))
        table.add_row(row["layer"], row["activation"], row["dtype"], *sizes)
    console.print()
    console.print(table)
    said = (
        "Bytes for each value of the input, kept by the layer and a convolution behind it, which keeps its own input."
    )
    console.print(f"\n{said}", style="dim")


def show_steps(console: Console, rows: Sequence[Row]) -> None:
    """Milliseconds of a training step, and the normalizers' share of torch's step, for each memory regime and number
    of threads."""
    for heading, members in groups(timed(rows), _regime).items():
        console.print()
        console.print(heading, style="bold")
        console.print(_steps(members))
    console.print("\nMilliseconds of a step; share: the part that the normalizers take, torch's -> ours.", style="dim")


def _steps(rows: Sequence[Row]) -> Table:
    table = _table("net", "type", "native", "ours", "none", "ratio", "share")
    for row in rows:
        native, ours, none = (float(row[name]) for name in ("native_ms", "ours_ms", "none_ms"))
        share = f"{(native - none) / native:.0%} -> {(ours - none) / ours:.0%}"
        cells = (f"{native:.0f}", f"{ours:.0f}", f"{none:.0f}", row["ratio"], share)
        table.add_row(_net(row), kind(row), *cells)
    return table


def _regime(row: Row) -> str:
    memory = f"Memory {row['memory']}, " if row["memory"] else ""
    return f"{memory}{row['threads']} thread{'' if row['threads'] == '1' else 's'}"


def _net(row: Row) -> str:
    """The net, and its normalizer if it is measured with several."""
    net = NETS[row["net"]]
    return net.title if len(net.norms) == 1 else f"{net.title}, {SUBJECTS[row['norm']].title}"


def show_step_line(console: Console, row: Row) -> None:
    """A finished step in one line."""
    said = f"{row['ratio']} x native" if row["status"] == OK else row["message"] or "failed"
    if row["status"] == WRONG:
        said = f"wrong, the losses differ by {row['loss_error']}; not timed"
    parts = [_net(row), row["dtype"], row["layout"], f"threads {row['threads']}"]
    parts += [f"memory {row['memory']}"] if row["memory"] else []
    console.print(f"{', '.join(parts)}: {said}", soft_wrap=True)


def _table(first: str, *headings: str) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), show_edge=False, header_style="bold", pad_edge=False)
    table.add_column(first, no_wrap=True)
    for heading in headings:
        table.add_column(
            heading, no_wrap=True, justify="right" if heading not in ("pass", "type", "activation") else "left"
        )
    return table
