"""Write docs/normalizers.md, the survey of the field, from the table NORMALIZERS: python docs/make_normalizers.py"""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import normwise as nw
from normwise.layers import NORMALIZERS, Normalizer

PAGE = Path(__file__).with_name("normalizers.md")
HEAD = """# The normalizers

Every one of them computes `y = (x - center) · scale + shift` from the table of per-(sample, channel) moments, or one
of three other functions of each value (`nw.Thresholded`, `nw.Gated`, `nw.LargerScale`); they differ in what they pool
over. *Name* is what `nw.make_norm`, the nets and `normwise compare --norms` take. This page is
made from the table `nw.NORMALIZERS` by `docs/make_normalizers.py`.

| name | layer | statistics are pooled over | needs a batch | source |
|---|---|---|---|---|
"""


def page() -> str:
    """The whole page."""
    rows = [row for row in NORMALIZERS.values() if row.name != "none"]
    table = "".join(line(row) for row in rows)
    return HEAD + table + "\n" + "\n".join(section(row) for row in rows)


def line(row: Normalizer) -> str:
    """One row of the table."""
    needs = "yes" if row.uses_batch else "no"
    return f"| `{row.name}` | [{row.title}](#{anchor(row)}) | {row.pool} | {needs} | {row.paper} |\n"


def anchor(row: Normalizer) -> str:
    """What a heading becomes in a link."""
    return re.sub(r"[^a-z0-9 -]", "", heading(row).lower()).replace(" ", "-")


def heading(row: Normalizer) -> str:
    """The name first: some titles serve two rows."""
    return f"{row.name} {row.title}"


def section(row: Normalizer) -> str:
    """The docstring of the class that stands for the row, with its signature."""
    layer = row.layers.get(2) or row.layers.get(0) or next(iter(row.layers.values()))
    text = inspect.cleandoc(layer.__doc__ or "")
    names = ", ".join(f"`nw.{kind.__name__}`" for kind in row.layers.values() if hasattr(nw, kind.__name__))
    guidance = f"**Use it for.** {row.when_to_use} **Trap.** {row.trap} See it: `normwise explain {row.name}`."
    return f"## {heading(row)}\n\n{names}\n\n{guidance}\n\n{markdown(text)}\n"


def markdown(text: str) -> str:
    """Docstring markup as Markdown: formulas, examples, names."""
    text = re.sub(r"\.\. math:: (.+(?:\n +.+)*)", lambda m: "$$" + re.sub(r"\s+", " ", m[1]) + "$$", text)
    text = re.sub(r":math:`([^`]+)`", r"$\1$", text).replace("``", "`")
    return re.sub(r"((?:^>>> .*\n(?:(?!\n).+\n?)*)+)", r"```python\n\1```\n", text + "\n", flags=re.M)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
