"""Parse the style argument of a command."""

from __future__ import annotations

from ..errors import InputError
from .style_file import MANY, Style


def parse_style(text: str | None, net: Style | None) -> str | dict[str, float] | None:
    """A picture's path unchanged; for a net of many styles names and weights: ``wave``, ``wave:0.7,village:0.3``.

    >>> from normwise import nets
    >>> many = Style(nets.StyleNet(width=1, blocks=0, styles=2), MANY, ("wave", "village"), {}, {})
    >>> parse_style("wave:0.7,village:0.3", many)
    {'wave': 0.7, 'village': 0.3}
    """
    if text is None or net is None or net.kind != MANY:
        return text
    weights: dict[str, float] = {}
    for part in text.split(","):
        name, _, weight = part.partition(":")
        if name in weights:
            raise InputError(f"--style {text}: {name} occurs twice; write each name once.")
        try:
            weights[name] = float(weight or 1)
        except ValueError as error:
            raise InputError(f"--style {text}: write names and weights, such as {net.names[0]}:0.7.") from error
    return weights
