"""Every cell of the published matrix, proven."""

import pytest

from normwise.layers import NORMALIZERS

from . import cells, write
from .cells import cases

CASES = [pytest.param(case, id=f"{case.name}-{case.rank}d") for case in cases()]
# Tracing takes seconds, and what is traced differs by kind: known statistics, a pool, a mixture, each response, no
# statistics, rows, pixels, and each further input. One of each kind always, the others in the slow suite.
KINDS = {"batch", "group", "switchable", "filter-response", "evo-b0", "evo-s0", "pixel-layer", "tanh", "token-rms"}
KINDS |= {"adaptive-instance", "conditional-batch", "spade"}
OF_EACH_KIND = [case for case in cases() if case.rank == 2 and case.name in KINDS]
# Each kind is compiled, with its gradients, by tests of its own in tests/layers; here that the cell finds it so.
COMPILED = {"batch", "spade"}
NORMAL = (cells.WORKS, cells.NOT_APPLICABLE)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("dtype", cells.DTYPES)
def test_values(case, dtype, layout, training):
    assert cells.values(case, dtype, layout, training) in NORMAL


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("cell", [cells.masked, cells.mapped, cells.twice_differentiable], ids=lambda f: f.__name__)
def test_masks_transforms_and_second_derivatives(case, cell):
    assert cell(case) in NORMAL


@pytest.mark.parametrize("case", [case for case in OF_EACH_KIND if case.name in COMPILED], ids=lambda case: case.name)
def test_compiled(case):
    assert cells.compiled(case) == cells.WORKS


@pytest.mark.onnx
def test_one_of_each_kind_in_onnx_runtime():
    """The export to ONNX begins with torch.export."""
    assert cells.onnx_runtime(*OF_EACH_KIND) == cells.WORKS


@pytest.mark.onnx
@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("cell", [cells.compiled, cells.exported, cells.onnx_runtime], ids=lambda f: f.__name__)
def test_traced(case, cell):
    assert cell(case) in NORMAL


def test_processes():
    outcomes = write.over_processes()
    batch = {case for case in cases() if NORMALIZERS[case.name].uses_batch and case.name != "ghost"}
    assert {f"{c.name}-{c.rank}" for c in batch} == {
        name for name, outcome in outcomes.items() if outcome == cells.WORKS
    }


def test_the_published_matrix_has_every_layer_and_no_other_sign():
    rows = [
        line.split("|")[1:-1] for line in write.PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| `")
    ]
    assert [row[0].split("`")[1] for row in rows] == list(dict.fromkeys(case.name for case in cases()))
    assert {sign.strip() for row in rows for sign in row[2:]} <= {"✓", "-"}
    assert all(len(row) == len(write.CELLS) + 2 for row in rows)
