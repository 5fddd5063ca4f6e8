"""What every row of `NORMALIZERS` promises, each promise in one place: one suite over all rows, ranks and formulas."""

import pytest
import torch

from normwise.layers import NORMALIZERS

from . import compilers, derivatives, masks, numbers, state, tools, write
from .cases import ERROR, NOT_APPLICABLE, ONE_OF_EACH_WAY, WORKS, cases, other_formulas
from .tools import EVALUATES

# torch itself compiles its forward-mode rules with torch.jit.script on their first use.
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")

CASES = [pytest.param(case, id=case.id) for case in (*cases(), *other_formulas())]
ROWS = [pytest.param(case, id=case.id) for case in cases()]
TWO_D = [case for case in cases() if case.rank == 2]
NORMAL = (WORKS, NOT_APPLICABLE)

PROMISES = [
    numbers.far_from_zero,
    numbers.rounded_once,
    numbers.moved_by_no_autocast,
    numbers.residual_and_activation_come_last,
    masks.masked,
    masks.padded,
    masks.nothing_under_the_mask,
    state.saved_and_copied,
    state.begun_anew,
    state.checkpointed,
    state.without_memory,
    derivatives.mapped,
    derivatives.twice_differentiable,
]

#: In one export, which takes less than many.
EXPORTED = [case for case in TWO_D if case.name in {*ONE_OF_EACH_WAY, "adaptive-instance", "spade"}]
#: What a compiler traces, forward and backward: those whose tests in tests/layers and tests/operations compile nothing.
COMPILED = {
    "switchable",
    "evo-b0",
    "global-response",
    "pixel-layer",
    "tanh",
    "adaptive-layer",
    "conditional-batch",
    "spade",
}
#: A promise, and the rows that it is always tried with, at rank 2, which changes no path through the code.
RECORDED = {
    **{promise: set() for promise in (compilers.compiled, compilers.exported, compilers.onnx_runtime)},
    tools.make_fx_values: ONE_OF_EACH_WAY,
    tools.jit_trace: ONE_OF_EACH_WAY,
    tools.symbolic_trace: set(NORMALIZERS),
    tools.make_fx_gradients: set(NORMALIZERS),
    tools.imagined: set(NORMALIZERS),
    derivatives.many_gradients: set(NORMALIZERS),
}


def recorded():
    for promise, always in RECORDED.items():
        for case in (*cases(), *other_formulas()):
            quick = case.rank == 2 and case.name in always and not case.setting
            marks = () if quick else pytest.mark.slow
            yield pytest.param(promise, case, id=f"{promise.__name__}-{case.id}", marks=marks)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("dtype", numbers.DTYPES)
def test_values(case, dtype, layout, training):
    assert numbers.values(case, dtype, layout, training) in NORMAL


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("promise", PROMISES, ids=lambda promise: promise.__name__)
def test_a_promise(promise, case):
    assert promise(case) in NORMAL


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("missing", numbers.NOTHING)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("graph", [True, False], ids=["graph", "no graph"])
def test_empty(case, missing, dtype, training, graph):
    outcome = numbers.empty(case, missing, dtype, training, graph)
    assert outcome in (ERROR,) if case.name == "spade" and missing != "no sample" else NORMAL


@pytest.mark.parametrize(("promise", "case"), list(recorded()))
def test_recorded(promise, case):
    assert promise(case) in NORMAL


#: What torch.jit.script makes of them, where it is not "works".
SCRIPTED = dict.fromkeys(["ghost", "renorm", "evo-b0"], EVALUATES)
SCRIPTED |= dict.fromkeys(["switchable", "batch-instance", "adaptive-instance"], ERROR)
SCRIPTED |= dict.fromkeys(["conditional-instance", "conditional-batch", "spade"], ERROR)


@pytest.mark.parametrize(
    "case", [pytest.param(c, id=c.id, marks=() if c.rank == 2 else pytest.mark.slow) for c in cases()]
)
def test_scripted(case):
    assert tools.scripted(case) == SCRIPTED.get(case.name, WORKS)


def test_compiled_together():
    responses = (case for case in other_formulas() if case.setting == "threshold")
    assert compilers.compiled(*(case for case in TWO_D if case.name in COMPILED), *responses) == WORKS


def test_exported_together():
    assert compilers.exported(*EXPORTED) == WORKS


@pytest.mark.onnx
def test_in_onnx_runtime_together():
    assert compilers.onnx_runtime(*EXPORTED) == WORKS


def test_processes():
    outcomes = write.over_processes()
    batch = {case for case in cases() if NORMALIZERS[case.name].uses_batch and case.name != "ghost"}
    assert {f"{c.name}-{c.rank}" for c in batch} == {name for name, outcome in outcomes.items() if outcome == WORKS}
