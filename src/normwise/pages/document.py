"""One HTML file that needs no other file."""

from __future__ import annotations

from html import escape
from pathlib import Path

from .palette import FONT, variables

BASE = Path(__file__).with_name("base.css")
# With this policy the browser itself refuses any request that leaves the file.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data: blob:"
SCRIPTS = "; script-src 'unsafe-inline'"


def document(
    title: str, body: str, style: str = "", script: str = "", library: str = "", refresh: int | None = None
) -> str:
    """The whole page: `body` is HTML, `style` follows the style of all pages.

    `script` runs after the body has loaded, `library` before it; without them the page may run no script. With
    `refresh` the browser reloads the page after that number of seconds.
    """
    again = "" if refresh is None else f'<meta http-equiv="refresh" content="{refresh}">\n'
    policy = POLICY + (SCRIPTS if script or library else "")
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>{escape(title)}</title>
<style>
{variables()}body {{ font-family: {FONT}; }}
{BASE.read_text(encoding="utf-8")}{style}</style>
{again}{_script(library)}</head>
<body>
<main>
{body}
</main>
{_script(script)}</body>
</html>
"""


def _script(code: str) -> str:
    return f"<script>\n{code}</script>\n" if code else ""
