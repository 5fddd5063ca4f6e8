"""The reports of the tools: rows of data, and their rendering as text, JSON and HTML."""

from __future__ import annotations

import json
import math
import shutil
import textwrap
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

from .. import files
from ..pages import document

WIDTHS = (80, 120)
_GAP = 2
_LEAST_TEXT = 16


class Table(NamedTuple):
    """The content of a report: ``rows`` map a column's key to a text, a number or None; ``notes`` are sentences below.

    ``columns`` maps keys to headings, in order; if the width is too small, the last column is wrapped.
    """

    title: str
    columns: Mapping[str, str]
    rows: Sequence[Mapping[str, Any]]
    notes: Sequence[str] = ()


class Report:
    """The three renderings of an object with a method `table`.

    ``str(report)`` is a table of 120 columns if the terminal is wide enough, else of 80.
    """

    def table(self) -> Table:
        raise NotImplementedError

    def __str__(self) -> str:
        wide = shutil.get_terminal_size((WIDTHS[0], 24)).columns >= WIDTHS[1]
        return as_text(self.table(), WIDTHS[wide])

    def to_json(self, path: str | Path | None = None) -> str:
        """The report as JSON text, also written to ``path``, whole or not at all.

        NaN and infinities are the strings "nan", "inf", "-inf".
        """
        shown = self.table()
        rows = [{key: _plain(row.get(key)) for key in shown.columns} for row in shown.rows]
        text = json.dumps({"title": shown.title, "rows": rows, "notes": [*shown.notes]}, ensure_ascii=False, indent=1)
        if path is not None:
            files.replace(Path(path), text + "\n")
        return text

    def html(self, path: str | Path) -> None:
        """Write the report as one self-contained HTML file, whole or not at all."""
        files.replace(Path(path), as_html(self.table()))


def as_text(table: Table, width: int) -> str:
    """The table in at most ``width`` columns: long names are cut at the beginning, long texts are wrapped."""
    heads = list(table.columns.values())
    cells = [[_shown(row.get(key)) for key in table.columns] for row in table.rows]
    numeric = [_is_numeric([row.get(key) for row in table.rows]) for key in table.columns]
    sizes = _sizes([heads, *cells], width)
    lines = textwrap.wrap(table.title, width)
    if cells:
        lines += [part for row in (heads, *cells) for part in _lines(row, sizes, numeric)]
    lines += [line for note in table.notes for line in textwrap.wrap(note, width)]
    return "\n".join(lines)


def as_html(table: Table) -> str:
    """The table as an HTML page."""
    heads = "".join(f"<th>{escape(head)}</th>" for head in table.columns.values())
    body = "\n".join(
        f"<tr>{''.join(f'<td>{escape(_shown(row.get(key)))}</td>' for key in table.columns)}</tr>" for row in table.rows
    )
    notes = "".join(f"<p>{escape(note)}</p>" for note in table.notes)
    content = (
        f"<h1>{escape(table.title)}</h1>{notes}\n<div class='wide'><table><tr>{heads}</tr>\n{body}\n</table></div>"
    )
    return document(table.title, content, STYLE)


STYLE = """.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: 0.875rem; }
th, td { text-align: left; vertical-align: top; padding: 4px 12px 4px 0; border-bottom: 1px solid var(--line); }
"""


def _sizes(lines: Sequence[Sequence[str]], width: int) -> list[int]:
    """The width of each column: that of its content; if the sum is too large, the last and then the first shrink."""
    sizes = [max(map(len, column)) for column in zip(*lines, strict=True)]
    excess = sum(sizes) + _GAP * (len(sizes) - 1) - width
    for column in (-1, 0):
        taken = min(max(excess, 0), max(sizes[column] - _LEAST_TEXT, 0))
        sizes[column] -= taken
        excess -= taken
    return sizes


def _lines(row: Sequence[str], sizes: Sequence[int], numeric: Sequence[bool]) -> list[str]:
    *head, last = row
    cells = [_cut(cell, size) for cell, size in zip(head, sizes, strict=False)]
    wrapped = textwrap.wrap(last, sizes[-1]) or [""]
    gap = " " * _GAP
    rows = [[*cells, wrapped[0]], *([""] * len(head) + [part] for part in wrapped[1:])]
    padded = (
        gap.join(f"{c:>{s}}" if n else f"{c:<{s}}" for c, s, n in zip(r, sizes, numeric, strict=True)) for r in rows
    )
    return [line.rstrip() for line in padded]


def _cut(cell: str, size: int) -> str:
    return cell if len(cell) <= size else f"…{cell[len(cell) - size + 1 :]}"


def _is_numeric(values: Sequence[Any]) -> bool:
    return any(isinstance(v, (int, float)) for v in values) and not any(isinstance(v, str) for v in values)


def _shown(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _plain(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if isinstance(value, (int, float, str)) or value is None else str(value)
