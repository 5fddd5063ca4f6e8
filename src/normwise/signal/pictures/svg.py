"""Shapes as SVG."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

from ...pages.palette import FONT
from .shapes import ROLES, Marker, Panel, Path, Series, Shape, Text

DASHES = "5 4"


def document(width: float, height: float, shapes: Iterable[Shape], title: str) -> str:
    """A complete SVG file, with fixed colours and a paper-coloured background."""
    colors = "".join(f".{role}{{fill:{color}}}.{role}-line{{stroke:{color}}}" for role, color in ROLES.items())
    body = "\n".join(element(shape) for shape in shapes)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" width="{width:g}" '
        f'height="{height:g}" font-family=\'{FONT}\' role="img">\n<title>{escape(title)}</title>\n'
        f'<style>{colors}</style>\n<rect width="100%" height="100%" class="paper"/>\n{body}\n</svg>\n'
    )


def inline(panel: Panel) -> str:
    """A panel as part of a page, whose style sheet defines the colours of the roles."""
    body = "\n".join(element(shape) for shape in panel.shapes)
    frame = f'viewBox="0 0 {panel.width:g} {panel.height:g}" role="img" aria-label="{escape(panel.alt)}"'
    return f"<svg {frame}>\n{body}\n</svg>"


def element(shape: Shape) -> str:
    """One shape."""
    if isinstance(shape, Series):
        return f'<g data-model="{shape.model}">{"".join(map(element, shape.shapes))}</g>'
    if isinstance(shape, Path):
        return _path(shape)
    return _marker(shape) if isinstance(shape, Marker) else _text(shape)


def _path(path: Path) -> str:
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in path.points)
    if path.fill:
        return f'<polygon points="{points}" {_color(path.color, "fill")}/>'
    dash = f' stroke-dasharray="{DASHES}"' if path.dashed else ""
    return (
        f'<polyline points="{points}" fill="none" {_color(path.color, "stroke")} stroke-width="{path.width:g}"{dash} '
        'stroke-linejoin="round"/>'
    )


def _marker(marker: Marker) -> str:
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in marker.outline())
    attributes = (
        f'{_color("paper", "fill")} stroke="{marker.color}" stroke-width="1.5"'
        if marker.hollow
        else _color(marker.color, "fill")
    )
    return f'<polygon points="{points}" {attributes}><title>{escape(marker.title)}</title></polygon>'


def _text(text: Text) -> str:
    weight = ' font-weight="600"' if text.bold else ""
    whole = f"<title>{escape(text.whole)}</title>" if text.whole not in ("", text.text) else ""
    return (
        f'<text x="{text.x:.1f}" y="{text.y:.1f}" dy="0.35em" font-size="{text.size:g}" text-anchor="{text.anchor}" '
        f"{_color(text.color, 'fill')}{weight}>{escape(text.text, quote=False)}{whole}</text>"
    )


def _color(color: str, use: str) -> str:
    if color in ROLES:
        return f'class="{color}"' if use == "fill" else f'class="{color}-line"'
    return f'{use}="{color}"'
