"""The tables of `normwise trace`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..signal import Tap, Trace
from ..signal.names import shortened

NUMBER = 11
NAME = 28
QUANTITIES = (
    ("Average channel squared mean", "block", "squared_mean"),
    ("Average channel variance", "block", "variance"),
    ("Variance at the end of the residual branch", "branch", "variance"),
)


def show(console: Console, traces: Mapping[str, Trace], predicted: Mapping[str, Trace]) -> None:
    """One model with its prediction; several models side by side, one table per quantity."""
    if len(traces) == 1:
        (label, trace), *_ = traces.items()
        _show_one(console, label, trace, predicted.get(label))
    else:
        _show_several(console, traces)
    for label, trace in traces.items():
        for note in trace.notes:
            console.print(f"{label}: {note}", style="dim")
        if label in predicted:
            console.print(f"{label}: {_agreement(trace, predicted[label])}")
    console.print()


def _places(trace: Trace) -> Sequence[Tap]:
    return trace.blocks or trace.layers


def _show_one(console: Console, label: str, trace: Trace, theory: Trace | None) -> None:
    branches = {tap.name: tap.variance for tap in trace.branches}
    expected = {(tap.kind, tap.name): tap.variance for tap in theory.taps} if theory else {}
    heads = ["squared mean", "variance", *(["predicted"] if theory else [])]
    if branches:
        heads += ["branch", *(["predicted"] if theory else [])]
    table = _table(f"{label}, {trace.input}", heads)
    for tap in _places(trace):
        cells = [_number(tap.squared_mean), _number(tap.variance)]
        cells += [_number(expected.get((tap.kind, tap.name)))] if theory else []
        if branches:
            cells.append(_number(branches.get(tap.name)))
            cells += [_number(expected.get(("branch", tap.name)))] if theory else []
        table.add_row(Text(shortened(tap.name, NAME)), *cells)
    console.print(table, "", sep="\n")


def _show_several(console: Console, traces: Mapping[str, Trace]) -> None:
    with_blocks = any(trace.blocks for trace in traces.values())
    names = [[tap.name for tap in _places(trace)] for trace in traces.values()]
    longest = max(names, key=len)
    rows = longest if all(n == longest[: len(n)] for n in names) else [str(i + 1) for i in range(len(longest))]
    for title, kind, field in QUANTITIES if with_blocks else QUANTITIES[:2]:
        table = _table(title, list(traces))
        columns = [_column(trace, kind if with_blocks else "layer", field) for trace in traces.values()]
        for i, row in enumerate(rows):
            cells = (_number(column[i] if i < len(column) else None) for column in columns)
            table.add_row(Text(shortened(row, NAME)), *cells)
        console.print(table, "", sep="\n")


def _column(trace: Trace, kind: str, field: str) -> list[float | None]:
    found = {tap.name: getattr(tap, field) for tap in trace.taps if tap.kind == kind}
    return [found.get(tap.name) for tap in _places(trace)]


def _table(title: str, heads: Sequence[str]) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("", no_wrap=True, min_width=14, max_width=NAME)
    for head in heads:
        table.add_column(head, justify="right", max_width=NUMBER + 3)
    return table


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return "0" if abs(value) < 1e-9 else f"{value:.4g}"


def _agreement(trace: Trace, theory: Trace) -> str:
    expected = {(tap.kind, tap.name): tap.variance for tap in theory.taps}
    places = [tap for tap in _places(trace) if expected.get((tap.kind, tap.name)) and tap.variance > 0]
    errors = [abs(expected[tap.kind, tap.name] / tap.variance - 1) for tap in places]
    if not errors:
        return "nothing to compare with the prediction."
    return f"the variance is as predicted to {median(errors):.0%} (median), {max(errors):.0%} at the worst place."
