"""The pictures as one HTML file that needs nothing beside itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from ..records import Trace
from .looks import look
from .shapes import Marker, Panel
from .svg import element, inline

HERE = Path(__file__).parent
# The browser itself then refuses any request that leaves the file.
POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:"


def page(
    title: str,
    lead: str,
    traces: Mapping[str, Trace],
    panels: Sequence[Panel],
    *,
    predicted: bool,
    command: str | None,
) -> str:
    """The whole page: legend, pictures that follow the width, the numbers as text."""
    style, script = ((HERE / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    figures = "\n".join(f"<figure><h2>{escape(p.title)}</h2>\n{inline(p)}</figure>" for p in panels)
    numbers = "\n".join(_numbers(name, trace) for name, trace in traces.items())
    repeat = f"<details open><summary>Repeat it</summary><pre>{escape(command)}</pre></details>" if command else ""
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>{escape(title)}</title>
<style>
{style}</style>
</head>
<body>
<main>
<h1>{escape(title)}</h1>
<p class="lead">{escape(lead)}</p>
{_legend(list(traces), predicted)}
<div class="panels">
{figures}
</div>
{numbers}
{repeat}
</main>
<div id="tip" role="status" hidden></div>
<script>
{script}</script>
</body>
</html>
"""


def _legend(names: Sequence[str], predicted: bool) -> str:
    """Buttons that hide and show a model."""
    buttons = "".join(
        f'<button type="button" aria-pressed="true" data-model="{i}">{_mark(i)}{escape(name)}</button>'
        for i, name in enumerate(names)
    )
    dashed = "<span>Dashed: predicted from the structure</span>" if predicted else ""
    return f'<div class="legend">{buttons}{dashed}</div>'


def _mark(model: int) -> str:
    color, marker = look(model)
    return f'<svg viewBox="-7 -7 14 14" aria-hidden="true">{element(Marker(0, 0, marker, color, "", size=10))}</svg>'


def _numbers(name: str, trace: Trace) -> str:
    return f"<details><summary>Numbers of {escape(name)}</summary><pre>{escape(str(trace))}</pre></details>"
