"""Every cell of the published page of tools, proven."""

import pytest

from tests.conformance.cells import ONE_OF_EACH_WAY, cases

from . import cells, write

#: What torch.jit.script makes of them, besides "works".
EVALUATE = {"ghost", "renorm", "evo-b0"}
REFUSED = {"switchable", "batch-instance", "adaptive-instance", "conditional-instance", "conditional-batch", "spade"}
#: These record every operator of a layer, which takes long.
RECORDING = {"make_fx", "export", "jit.trace"}


def cells_of(case):
    """Each tool with a layer. Ranks change no path through the code, and layers of one way are recorded alike."""
    for tool in cells.CELLS:
        quick = case.rank == 2 and (tool not in RECORDING or case.name in ONE_OF_EACH_WAY)
        name = f"{tool}-{case.name}-{case.rank}d"
        yield pytest.param(tool, case, id=name, marks=() if quick else pytest.mark.slow)


# torch itself compiles its forward-mode rules with torch.jit.script on their first use.
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")


@pytest.mark.parametrize(("tool", "case"), [cell for case in cases() for cell in cells_of(case)])
def test_cell(tool, case):
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
