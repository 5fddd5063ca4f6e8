"""Every cell of the published matrix, proven."""

import pytest

from . import cells
from .cells import cases

CASES = [pytest.param(case, id=f"{case.name}-{case.rank}d") for case in cases()]
# Tracing takes seconds: every layer at two spatial dimensions always, at one and three in the slow suite.
TRACED = [
    pytest.param(case, id=f"{case.name}-{case.rank}d", marks=() if case.rank == 2 else pytest.mark.slow)
    for case in cases()
]
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


@pytest.mark.parametrize("case", TRACED)
@pytest.mark.parametrize("cell", [cells.compiled, cells.exported], ids=lambda f: f.__name__)
def test_compiled_and_exported(case, cell):
    assert cell(case) in NORMAL


@pytest.mark.onnx
@pytest.mark.parametrize("case", TRACED)
def test_onnx_runtime(case):
    assert cells.onnx_runtime(case) in NORMAL
