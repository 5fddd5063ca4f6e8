"""Write docs/normalizers.md and a page with pictures for each row of NORMALIZERS: python docs/make_normalizers.py"""

from __future__ import annotations

from pathlib import Path

import layer_page

from normwise.layers import NORMALIZERS, Normalizer

HERE = Path(__file__).parent
HEAD = """# The normalizers

Every one of them computes `y = (x - center) · scale + shift` from the table of per-(sample, channel) moments, or one
of three other functions of each value (`nw.Thresholded`, `nw.Gated`, `nw.LargerScale`); they differ in their pools.
*Name* is the argument of `nw.make_norm`, the nets and `normwise compare --norms`. Each has a page with the paper's
equation and the code, its measured cube, its effect on a picture, when to use it, its trap, its cost, arguments, errors
and an example. `docs/make_normalizers.py` makes this page and the others from the table `nw.NORMALIZERS`.

| name | layer | statistics are pooled over | needs a batch | source |
|---|---|---|---|---|
"""
CONTENTS = """
:::{toctree}
:hidden:
:glob:

layers/*
:::
"""
ROWS = [row for row in NORMALIZERS.values() if row.name != "none"]


def pages() -> dict[Path, str]:
    """Every page by its file."""
    table = "".join(map(_line, ROWS))
    each = {HERE / "layers" / f"{row.name}.md": layer_page.page(row) for row in ROWS}
    return {HERE / "normalizers.md": HEAD + table + CONTENTS, **each}


def _line(row: Normalizer) -> str:
    """One row of the table."""
    needs = "yes" if row.uses_batch else "no"
    return f"| `{row.name}` | [{row.title}](layers/{row.name}.md) | {row.pool} | {needs} | {row.paper} |\n"


if __name__ == "__main__":
    for folder in (HERE / "layers", layer_page.IMAGES / "cubes", layer_page.IMAGES / "pictures"):
        folder.mkdir(exist_ok=True)
    for path, text in pages().items():
        path.write_text(text, encoding="utf-8")
    for row in ROWS:
        layer_page.write_images(row)
    layer_page.write_pair(layer_page.picture_file("before"), layer_page.effect(ROWS[0].name).before.clamp(0, 1))
