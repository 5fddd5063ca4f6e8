"""Every cell of the published page of tools, proven."""

import pytest

from tests.conformance.cells import cases

from . import cells, write

#: What torch.jit.script makes of them, besides "works".
EVALUATE = {"ghost", "renorm", "evo-b0"}
REFUSED = {"switchable", "batch-instance", "adaptive-instance", "conditional-instance", "conditional-batch", "spade"}
# Tracing takes long, and ranks change no path through the code.
CASES = [
    pytest.param(case, id=f"{case.name}-{case.rank}d", marks=() if case.rank == 2 else pytest.mark.slow)
    for case in cases()
]
# torch itself compiles its forward-mode rules with torch.jit.script on their first use.
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("tool", cells.CELLS)
def test_cell(case, tool):
    expected = cells.WORKS
    if tool == "jit.script":
        expected = cells.EVALUATES if case.name in EVALUATE else cells.ERROR if case.name in REFUSED else cells.WORKS
    assert cells.CELLS[tool](case) == expected


def test_the_published_page_has_every_layer_and_tool():
    lines = write.PAGE.read_text(encoding="utf-8").partition(write.MARK)[2].splitlines()
    header, *rows = [line.split("|")[1:-1] for line in lines if line.startswith("| ")]
    assert [name.strip() for name in header[1:]] == list(cells.CELLS)
    assert [row[0].split("`")[1] for row in rows] == list(dict.fromkeys(case.name for case in cases()))
    assert {sign.strip() for row in rows for sign in row[1:]} <= {"✓", "-", "error", "evaluates"}
