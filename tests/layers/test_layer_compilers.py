"""torch.compile, torch.export and torch.jit.trace: one graph without breaks, and the eager answers."""

import contextlib
import copy
import re
import shutil
from pathlib import Path

import pytest
import torch
from layer_cases import CASES, LAYOUTS, MAP_CASES, gradients, ids, memory_format, randomize
from torch import nn
from torch.testing import assert_close

import normwise as nw

# The operations of a graph are those of the eager path or their exact decompositions, in fp32 with another
# order of sums: some roundings of values up to 10.
CLOSE = {"rtol": 1e-5, "atol": 5e-5}

# Compiling takes a second. Ranks and affine change no path through the code, so one case for each path stands for
# all in the fast suite.
PATHS = [
    case
    for case in CASES
    if case.id
    in ("BatchNorm2d", "InstanceNorm2d-plain", "InstanceNorm2d-tracked", "GroupNorm-2d", "LayerNorm", "RMSNorm")
]
REMEMBERING = [case for case in PATHS if case.remembers]
# What the compiler does with options, sizes and layouts does not depend on the path: the batch with its memory and
# rows stand for all.
FEW = [case for case in PATHS if case.id in ("BatchNorm2d", "LayerNorm")]


def in_both_modes(cases, fast=()):
    """Training and evaluation, as slow tests but for ``fast``, and for evaluation where it is the same as training.

    One layer of each way is compiled, exported and traced by tests/conformance; here are their options.
    """
    return [
        pytest.param(
            case,
            training,
            id=f"{case.id}-{'train' if training else 'eval'}",
            marks=() if case in fast and (training or case.remembers) else pytest.mark.slow,
        )
        for case in cases
        for training in (True, False)
    ]


def few_of(cases):
    """All of them, as slow tests but for `FEW`."""
    return [pytest.param(case, id=case.id, marks=() if case in FEW else pytest.mark.slow) for case in cases]


@pytest.fixture(autouse=True)
def _fresh_compiler():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def compiled(layer, backend="aot_eager", **options):
    return torch.compile(layer, fullgraph=True, backend=backend, **options)


def mask_of(case):
    rows = case not in MAP_CASES
    mask = torch.rand(case.shape if rows else (case.shape[0], *case.shape[2:])) < 0.6
    mask.view(case.shape[0], -1)[:, :2] = True
    return mask


def check(case, *, training, backend="aot_eager", activation=None, with_residual=False, mask=None, **options):
    """Two steps: outputs, gradients and buffers of a compiled copy against eager."""
    layer = randomize(case._replace(options={**case.options, **options}).build(activation=activation)).train(training)
    twin = copy.deepcopy(layer)
    graph = compiled(twin, backend)
    for _ in range(2):
        x = torch.randn(case.shape, requires_grad=True)
        residual = torch.randn(case.shape, requires_grad=True) if with_residual else None
        cotangent = torch.randn(case.shape)
        inputs = [t for t in (x, residual) if t is not None]
        y, expected = graph(x, residual, mask), layer(x, residual, mask)
        assert_close(y, expected, **CLOSE)
        found = gradients(y, [*inputs, *twin.parameters()], cotangent)
        assert_close(found, gradients(expected, [*inputs, *layer.parameters()], cotangent), **CLOSE)
    assert_close(twin.state_dict(), layer.state_dict(), **CLOSE)


@pytest.mark.parametrize(("case", "training"), in_both_modes(CASES))
def test_compile(case, training):
    check(case, training=training)


@pytest.mark.parametrize("case", few_of(PATHS))
def test_compile_with_everything(case):
    check(case, training=True, activation="silu", with_residual=True, mask=mask_of(case))


@pytest.mark.parametrize("case", few_of(REMEMBERING))
def test_compile_without_momentum(case):
    check(case, training=True, momentum=None)


def inductor(test):
    """Slow, and needs a C++ compiler; importing it makes torch warn about itself."""
    test = pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning")(test)
    return pytest.mark.slow(pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler")(test))


@inductor
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("case", PATHS, ids=ids)
def test_inductor(case, training):
    check(case, training=training, backend="inductor", activation="relu", with_residual=True)


@inductor
@pytest.mark.parametrize("case", REMEMBERING, ids=ids)
def test_inductor_with_mask_and_without_momentum(case):
    check(case, training=True, backend="inductor", mask=mask_of(case), momentum=None)


@pytest.mark.parametrize(("case", "training"), in_both_modes(PATHS, FEW))
def test_compile_once_for_any_batch_and_size(case, training):
    layer = randomize(case.build(activation="relu")).train(training)
    graphs = []

    def count(graph, inputs):
        graphs.append(graph)
        return graph.forward

    graph = torch.compile(copy.deepcopy(layer), fullgraph=True, backend=count, dynamic=True)
    for samples in (4, 5, 7):
        x = torch.randn(samples, *case.shape[1:])
        assert_close(graph(x), layer(x), **CLOSE)
    assert len(graphs) == 1


@pytest.mark.parametrize(("case", "training"), in_both_modes([case for case in MAP_CASES if case.rank in (2, 3)], FEW))
def test_compile_keeps_the_layout(case, training):
    layout = "channels_last" if case.rank == 2 else "channels_last_3d"
    layer = randomize(case.build()).train(training)
    x = LAYOUTS[layout](torch.randn(case.shape) + 1000)
    expected = copy.deepcopy(layer)(x)
    y = compiled(layer)(x)
    assert y.is_contiguous(memory_format=memory_format(layout))
    # At mean/std = 1000 a wrong formula shows: inputs are exact to 6e-5 there.
    assert_close(y, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("case", few_of(REMEMBERING))
def test_compile_a_narrow_layer(case):
    layer = randomize(case.build()).bfloat16()
    x = torch.randn(case.shape).bfloat16()
    twin = copy.deepcopy(layer)
    y = compiled(twin)(x)
    assert y.dtype == torch.bfloat16
    assert_close(y, layer(x), rtol=2**-7, atol=2**-7)
    assert_close(twin.state_dict(), layer.state_dict(), rtol=2**-7, atol=2**-7)


def test_a_forced_backend_is_no_obstacle_for_the_compiler():
    layer, x = nw.GroupNorm(2, 6), torch.randn(2, 6, 5)
    with nw.use_backend("reference"):
        assert_close(compiled(layer)(x), layer(x), **CLOSE)


@pytest.mark.parametrize(("case", "training"), in_both_modes(CASES))
def test_export_with_a_dynamic_batch(case, training):
    layer = randomize(case.build(activation="relu")).train(training)
    twin = copy.deepcopy(layer)
    x = torch.randn(4, *case.shape[1:])
    program = torch.export.export(
        twin, (x, torch.randn_like(x)), dynamic_shapes=({0: torch.export.Dim("batch")}, {0: torch.export.Dim("batch")})
    )
    module = program.module()
    for samples in (4, 7):
        x, residual = torch.randn(2, samples, *case.shape[1:])
        assert_close(module(x, residual), layer(x, residual), **CLOSE)
    buffers = dict(module.named_buffers())
    assert_close({name: buffers[name] for name, _ in layer.named_buffers()}, dict(layer.named_buffers()), **CLOSE)


@pytest.mark.parametrize("case", few_of(PATHS))
def test_export_with_a_mask(case):
    layer = randomize(case.build()).eval()
    x, mask = torch.randn(case.shape), mask_of(case)
    program = torch.export.export(layer, (x,), {"mask": mask})
    other = torch.randn(case.shape), mask_of(case)
    assert_close(program.module()(other[0], mask=other[1]), layer(other[0], mask=other[1]), **CLOSE)


@pytest.mark.parametrize(("case", "training"), in_both_modes(CASES))
@pytest.mark.filterwarnings("ignore:.torch.jit.trace.* is deprecated:DeprecationWarning")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")  # the checks of the input's shape, as in torch.nn
def test_trace(case, training):
    layer = randomize(case.build(activation="relu")).train(training)
    x = torch.randn(case.shape)
    with contextlib.nullcontext() if training else torch.no_grad():
        traced = torch.jit.trace(copy.deepcopy(layer), (x,))
    fresh = torch.randn(case.shape[0] + 3, *case.shape[1:])
    assert_close(traced(fresh), layer(fresh), **CLOSE)


@pytest.mark.slow  # the fast suite: tests/conformance, a layer of each way in one graph
def test_a_whole_network_compiles_to_one_graph():
    net = nn.Sequential(
        nn.Conv2d(3, 6, 3),
        nw.BatchNorm2d(6, activation="relu"),
        nw.InstanceNorm2d(6, affine=True, track_running_stats=True),
        nw.GroupNorm(2, 6, activation="silu"),
        nn.Flatten(2),
        nw.LayerNorm(49),
        nw.RMSNorm(49),
    )
    twin = copy.deepcopy(net)
    x = torch.randn(3, 3, 9, 9)
    y, expected = compiled(twin)(x), net(x)
    assert_close(y, expected, **CLOSE)
    y.square().sum().backward()
    expected.square().sum().backward()
    for ours, theirs in zip(twin.parameters(), net.parameters(), strict=True):
        assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-3)
    assert_close(twin.state_dict(), net.state_dict(), **CLOSE)


def test_nothing_is_read_that_the_compiler_of_torch_2_11_mistakes():
    """It takes ``layer.__dict__["eps"]`` for ``layer.eps``, without end, answers True to `is_exporting`, and makes
    another object of a default such as PLANES."""
    package = Path(nw.__file__).parent
    for path in (path for room in ("core", "layers", "operations") for path in (package / room).rglob("*.py")):
        code = "".join(
            line for line in path.read_text().splitlines(keepends=True) if '__dict__["stands_for' not in line
        )
        assert not re.search(r"compiler\.is_exporting\(\)|self\.__dict__\[|view is", code), path
