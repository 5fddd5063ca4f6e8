"""docs/nets.md is what its script writes."""

import importlib.util
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.slow
def test_the_tables_are_current():
    spec = importlib.util.spec_from_file_location("make_nets", DOCS / "make_nets.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    text = (DOCS / "nets.md").read_text(encoding="utf-8")
    assert script.page(text) == text
