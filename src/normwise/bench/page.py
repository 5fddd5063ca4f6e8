"""The bench as one HTML file that needs no other file."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

from .. import files
from ..pages import document
from . import environment
from .pictures import panels, roofline, speed_up
from .storage import Row
from .summary import faulty, place, slower, timed

STYLE = "figure { overflow-x: auto; }\n"


def write_page(path: Path, rows: Sequence[Row], command: str) -> None:
    """Write the page of ``rows`` to ``path``, as a whole or not at all."""
    files.replace(path, build_page(rows, command))


def build_page(rows: Sequence[Row], command: str) -> str:
    """The whole page."""
    parts = [f"<h1>{_heading(rows)}</h1>", _about(rows)]
    if timed(rows):
        parts += _pictures(rows)
    parts += _list("Slower than the baseline", [f"{row['ratio']}: {place(row)}" for row in slower(rows)])
    parts += _list("Wrong or failed", [f"{place(row)}: {row['status']} {row['message']}" for row in faulty(rows)])
    parts.append(f"<h2>Repeat it</h2><pre><code>{escape(command)}</code></pre>")
    return document("normwise bench", "\n".join(parts), STYLE)


def _heading(rows: Sequence[Row]) -> str:
    return escape(f"normwise bench: {len(rows)} cells on {rows[0]['machine']}")


def _about(rows: Sequence[Row]) -> str:
    """The machine, versions and settings of the rows, as a paragraph."""
    row = rows[0]
    dates = sorted({row[environment.DATE] for row in rows})
    facts = {
        "torch": row["torch"],
        "normwise": f"{row['normwise']}, commit {row['commit'] or 'unknown'}",
        "backend": row["backend"],
        "clock": row["clock"],
        "huge pages": row["huge_pages"],
        "allocator": row["allocator"],
        "date": " to ".join(dict.fromkeys((dates[0], dates[-1]))),
    }
    return f'<p class="quiet">{escape("; ".join(f"{name} {value}" for name, value in facts.items()))}</p>'


def _pictures(rows: Sequence[Row]) -> list[str]:
    """The pictures of each panel, with their headings."""
    shown = panels(rows)
    parts = [
        "<h2>Speed-up</h2>",
        "<p>The baseline's time over ours: above 1 is faster. The baseline is torch's layer (with its residual and "
        "activation after it), and where torch has none, the paper's equation in plain PyTorch.</p>",
    ]
    parts += [f"<h3>{escape(name)}</h3><figure>{speed_up(members)}</figure>" for name, members in shown.items()]
    parts += [
        "<h2>Bandwidth under the roof</h2>",
        "<p>The least bytes that must be moved over the time it took, against the bandwidth of a copy of the same "
        "tensor.</p>",
    ]
    parts += [f"<h3>{escape(name)}</h3><figure>{roofline(members)}</figure>" for name, members in shown.items()]
    return parts


def _list(heading: str, lines: Sequence[str]) -> list[str]:
    if not lines:
        return []
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return [f"<h2>{escape(heading)}: {len(lines)}</h2><ul>{items}</ul>"]
