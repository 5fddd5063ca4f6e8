"""Every cell of the published page of tools, proven."""

import pytest

from tests.conformance.cells import cases

from . import cells

NORMAL = (cells.WORKS, cells.NOT_APPLICABLE)
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
    assert cells.CELLS[tool](case) in NORMAL
