"""The pictures as one self-contained HTML file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from ...pages import document
from ..records import Trace
from .line_styles import line_style
from .shapes import Marker, Panel
from .svg import element, inline

HERE = Path(__file__).parent


def page(
    title: str,
    lead: str,
    traces: Mapping[str, Trace],
    panels: Sequence[Panel],
    *,
    predicted: bool,
    command: str | None,
) -> str:
    """The whole page: legend, pictures that adapt to the width, the numbers as text."""
    style, script = ((HERE / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    figures = "\n".join(f"<figure><h2>{escape(p.title)}</h2>\n{inline(p)}</figure>" for p in panels)
    numbers = "\n".join(_numbers(name, trace) for name, trace in traces.items())
    notes = "\n".join(f"<p>{escape(f'{name}: {note}')}</p>" for name, trace in traces.items() for note in trace.notes)
    repeat = ""
    if command:
        repeat = f"<details open><summary>Repeat it</summary><pre><code>{escape(command)}</code></pre></details>"
    body = f"""<h1>{escape(title)}</h1>
<p class="quiet">{escape(lead)}</p>
{notes}
{_legend(list(traces), predicted)}
<div class="panels">
{figures}
</div>
{numbers}
{repeat}
<div id="tip" role="status" hidden></div>"""
    return document(title, body, style, script)


def _legend(names: Sequence[str], predicted: bool) -> str:
    """Buttons that hide and show a model."""
    buttons = "".join(
        f'<button type="button" aria-pressed="true" data-model="{i}">{_mark(i)}{escape(name)}</button>'
        for i, name in enumerate(names)
    )
    dashed = "<span>Dashed: predicted from the structure</span>" if predicted else ""
    return f'<div class="legend">{buttons}{dashed}</div>'


def _mark(model: int) -> str:
    color, marker = line_style(model)
    return f'<svg viewBox="-7 -7 14 14" aria-hidden="true">{element(Marker(0, 0, marker, color, "", size=10))}</svg>'


def _numbers(name: str, trace: Trace) -> str:
    return f"<details><summary>Numbers of {escape(name)}</summary><pre>{escape(str(trace))}</pre></details>"
