"""The colours and the font of every page and picture."""

from __future__ import annotations

FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, "Liberation Sans", Arial, sans-serif'

#: Colours by their role; in style sheets `var(--ink)` and so on.
LIGHT = {
    "page": "#ffffff",
    "panel": "#f5f6f8",
    "ink": "#1b1f24",
    "quiet": "#57606a",
    "grid": "#e4e8ec",
    "line": "#d8dde3",
    "accent": "#0072b2",
    "warn": "#9a4b00",
    "warn-panel": "#fff4e5",
}
DARK = {
    "page": "#14171a",
    "panel": "#1d2125",
    "ink": "#e7eaed",
    "quiet": "#a3acb5",
    "grid": "#2c3238",
    "line": "#363c43",
    "accent": "#57b0e3",
    "warn": "#ffb86b",
    "warn-panel": "#33260f",
}

#: Colours of series drawn side by side. The first are Okabe and Ito's (2008), which differ under every common colour
#: blindness, darkened where needed: each has a contrast of at least 3:1 on the light and on the dark page.
SERIES = (
    *("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#62666B"),
    *("#9A7200", "#2F9BC1", "#B4441C", "#4D8B31", "#8B6FD6"),
)


def variables() -> str:
    """The palette as the variables of a style sheet."""

    def declared(colors: dict[str, str]) -> str:
        return " ".join(f"--{role}: {color};" for role, color in colors.items())

    return (
        f":root {{ color-scheme: light dark; {declared(LIGHT)} }}\n"
        f"@media (prefers-color-scheme: dark) {{ :root {{ {declared(DARK)} }} }}\n"
    )
