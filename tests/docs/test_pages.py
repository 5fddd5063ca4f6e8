"""The pages that are made from the package say what the package says, and their pictures are what it draws."""

import importlib
import re
import sys
from pathlib import Path

import pytest

from normwise.explanation.choices import PATH, Advice
from normwise.layers import NORMALIZERS

DOCS = Path(__file__).parents[2] / "docs"
sys.path.insert(0, str(DOCS))
MAKERS = ["make_normalizers", "make_choose", "make_coming_from", "make_gallery_ja"]


@pytest.mark.parametrize("maker", MAKERS)
def test_made_pages_are_in_step(maker):
    made = importlib.import_module(maker).pages()
    stale = [path.name for path, text in made.items() if path.read_text(encoding="utf-8") != text]
    assert stale == [], "write them again: make pages"


def test_cubes_are_what_was_measured():
    layer_page = importlib.import_module("layer_page")
    rows = importlib.import_module("make_normalizers").ROWS
    assert len(rows) == len(NORMALIZERS) - 1
    expected = {layer_page.cube_file(told, row.name): told.svg() for row in rows for told in layer_page.cubes(row)}
    assert {path.name for path in expected} == {path.name for path in (DOCS / "images" / "cubes").iterdir()}
    assert [path.name for path, svg in expected.items() if path.read_text(encoding="utf-8") != svg] == []
    assert all((DOCS / "images" / "pictures" / f"{row.name}.jpg").is_file() for row in rows)


def test_a_page_of_a_layer_has_all_its_parts():
    for path in (DOCS / "layers").iterdir():
        text = path.read_text(encoding="utf-8")
        parts = [
            *("**Use it for.**", "**Trap.**", "## Formula", "## Which values share statistics"),
            *("## What it does to a picture", "## Cost", "```python\n>>> "),
        ]
        assert [part for part in parts if part not in text] == [], path.name


def test_every_page_is_in_the_contents():
    """A page that nothing leads to is a warning of Sphinx, which is not installed where this runs."""
    named = set()
    for page in DOCS.rglob("*.md"):
        for block in re.findall(r"^(?:```|:::)\{toctree\}\n(.*?)^(?:```|:::)$", page.read_text(), re.M | re.S):
            for line in block.splitlines():
                if line and not line.startswith(":"):
                    named |= {path.resolve() for path in page.parent.glob(f"{line}.*")}
    pages = {path.resolve() for path in DOCS.rglob("*.md") if "_build" not in path.parts}
    assert pages - named == {(DOCS / "index.md").resolve()}


def texts(question=PATH):
    yield question.text
    for branch in question.branches:
        yield from filter(None, (branch.answer, branch.because))
        if isinstance(branch.then, Advice):
            yield branch.then.use
        else:
            yield from texts(branch.then)


def test_the_path_is_translated_whole():
    assert set(importlib.import_module("choose_ja").JAPANESE) == set(texts())
