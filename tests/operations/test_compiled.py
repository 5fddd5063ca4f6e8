"""The kernels inside compiled models: operators with shapes, strides and gradients that the compiler can rely on."""

import pytest
import torch
from marks import needs_kernels
from torch import nn
from torch.testing import assert_close

import normwise as nw
from normwise.backends import cpu
from normwise.core import formulas
from normwise.core.bound import bound
from normwise.core.moments import Moments
from normwise.operations.context import context_of
from normwise.operations.request import Request
from normwise.operations.ways import compiled

pytestmark = needs_kernels

#: The compiler's front ends without its code generator: what they trace is what would be compiled.
BACKEND = "aot_eager"
LAYOUTS = [torch.contiguous_format, torch.channels_last]


@pytest.fixture
def always(monkeypatch):
    """Small tensors take the operators, too."""
    monkeypatch.setattr(compiled, "COMPILED_FROM", 1)


def tensors(dtype=torch.float32, layout=torch.contiguous_format, *, known=False, residual=True, affine=True, grad=True):
    generator = torch.Generator().manual_seed(0)

    def tensor(*shape):
        return torch.randn(shape, generator=generator).to(dtype)

    def big():
        return tensor(3, 6, 5, 7).to(memory_format=layout).requires_grad_(grad)

    x, r = big(), big() if residual else None
    weight, bias = (tensor(6).requires_grad_(grad) if affine else None for _ in range(2))
    table = torch.rand(2, 1, 6, generator=generator, dtype=torch.float64) + 0.5 if known else None
    return x, r, weight, bias, table


# Checking an operator takes a quarter of a second: each value of an argument, and each dtype in both layouts.
@pytest.mark.parametrize(
    ("groups", "dtype", "layout"),
    [
        (0, torch.float32, LAYOUTS[0]),
        (1, torch.float32, LAYOUTS[1]),
        (2, torch.bfloat16, LAYOUTS[0]),
        (6, torch.bfloat16, LAYOUTS[1]),
        (1, torch.float64, LAYOUTS[0]),
        (0, torch.float64, LAYOUTS[1]),
    ],
)
def test_the_operator_keeps_what_it_promises_the_compiler(groups, dtype, layout):
    arguments = (*tensors(dtype, layout), groups, 1e-5, "silu")
    torch.library.opcheck(torch.ops.normwise.standardize.default, arguments)


@pytest.mark.parametrize(
    "options",
    [{"known": True}, {"residual": False}, {"affine": False}, {"grad": False}, {"known": True, "residual": False}],
    ids=str,
)
def test_what_may_be_left_out(options):
    arguments = (*tensors(**options), 0 if "known" in options else 3, 1e-5, None)
    torch.library.opcheck(torch.ops.normwise.standardize.default, arguments)


@pytest.mark.parametrize("values", [True, False])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_backward_operator_keeps_its_promises(layout, values):
    x, r, weight, bias, _ = tensors(layout=layout, grad=False)
    _, moments = torch.ops.normwise.standardize(x, r, weight, bias, None, 2, 1e-5, "silu")
    arguments = (torch.randn_like(x), x, r, weight, bias, moments, 2, 1e-5, "silu", False, values)
    torch.library.opcheck(torch.ops.normwise.standardize_backward.default, arguments)


def test_strided_input_gives_what_the_fake_says():
    x = torch.randn(3, 5, 7, 12).movedim(-1, 1)[:, ::2].requires_grad_()
    torch.library.opcheck(torch.ops.normwise.standardize.default, (x, None, None, None, None, 3, 1e-5, None))


LAYERS = {
    "batch": (lambda: nw.BatchNorm2d(6, activation="silu"), lambda: nn.BatchNorm2d(6)),
    "group": (lambda: nw.GroupNorm(3, 6, activation="silu"), lambda: nn.GroupNorm(3, 6)),
    "instance": (
        lambda: nw.InstanceNorm2d(6, affine=True, activation="silu"),
        lambda: nn.InstanceNorm2d(6, affine=True),
    ),
}


def counted(monkeypatch):
    """How often the kernels ran."""
    calls = []
    for name in ("standardize", "standardize_backward"):
        real = getattr(cpu, name)
        monkeypatch.setattr(cpu, name, lambda *a, _real=real, _name=name, **k: calls.append(_name) or _real(*a, **k))
    return calls


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", LAYERS)
def test_a_compiled_layer_runs_the_kernels_and_gives_torchs_result(name, training, layout, monkeypatch, always):
    make, make_native = LAYERS[name]
    layer, native = make().train(training), make_native().double().train(training)
    native.load_state_dict(layer.state_dict())
    x = torch.randn(4, 6, 9, 11).to(memory_format=layout).requires_grad_()
    residual = torch.randn(4, 6, 9, 11).requires_grad_()
    grad_y = torch.randn(4, 6, 9, 11)
    calls = counted(monkeypatch)
    y = torch.compile(layer, fullgraph=True, backend=BACKEND)(x, residual)
    grads = torch.autograd.grad(y, [x, residual, *layer.parameters()], grad_y)
    assert calls == ["standardize", "standardize_backward"]
    assert y.stride() == x.stride()
    wide = [t.detach().double().contiguous().requires_grad_() for t in (x, residual)]
    want = torch.nn.functional.silu(native(wide[0]) + wide[1])
    expected = torch.autograd.grad(want, [*wide, *native.parameters()], grad_y.double())
    assert_close(y.double(), want, rtol=0, atol=2e-6)
    for got, exact in zip(grads, expected, strict=True):
        assert_close(got.double(), exact, rtol=1e-5, atol=1e-5)
    for key, value in native.state_dict().items():
        assert_close(layer.state_dict()[key].double(), value.double(), rtol=1e-5, atol=1e-6)


def test_sizes_may_change_without_another_compilation(always):
    layer, graphs = nw.GroupNorm(3, 6), []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph

    compiled = torch.compile(layer, fullgraph=True, dynamic=True, backend=backend)
    for shape in ((2, 6, 8, 9), (5, 6, 4, 7), (3, 6, 11, 13)):
        x = torch.randn(shape)
        assert_close(compiled(x), nn.GroupNorm(3, 6)(x), rtol=0, atol=2e-6)
    assert len(graphs) == 1
    assert any("normwise.standardize" in str(node.target) for node in graphs[0].graph.nodes)


@pytest.mark.parametrize(("size", "taken"), [(compiled.COMPILED_FROM // 2, False), (compiled.COMPILED_FROM, True)])
def test_small_tensors_are_left_to_the_compiler(size, taken, monkeypatch):
    layer, calls = nw.GroupNorm(3, 6), counted(monkeypatch)
    x = torch.randn(1, 6, 8, -(-size // 48))
    torch.compile(layer, fullgraph=True, backend=BACKEND)(x)
    assert bool(calls) is taken


def test_no_gradient_is_computed_that_nobody_wants(monkeypatch, always):
    layer = nw.GroupNorm(3, 6)
    layer.bias.requires_grad_(False)
    x, calls = torch.randn(2, 6, 8, 9), []
    real = cpu.standardize_backward

    def record(*arguments, **options):
        calls.append(options["values"])
        return real(*arguments, **options)

    monkeypatch.setattr(cpu, "standardize_backward", record)
    y = torch.compile(layer, fullgraph=True, backend=BACKEND)(x)
    y.square().sum().backward()
    assert calls == [False]
    assert layer.bias.grad is None
    exact = nn.GroupNorm(3, 6).double()
    exact(x.double()).square().sum().backward()
    assert_close(layer.weight.grad.double(), exact.weight.grad, rtol=1e-5, atol=1e-4)


def test_an_export_stays_plain(always):
    program = torch.export.export(nw.GroupNorm(3, 6).eval(), (torch.randn(2, 6, 8, 9),))
    assert not [node for node in program.graph.nodes if "normwise" in str(node.target)]


def test_eager_mode_does_not_go_through_the_operators():
    x = torch.randn(2, 6, 8, 9)
    asked = Request(x, bound(formulas.batch_norm, eps=1e-5), (None, None))
    assert compiled.bind(asked, context_of(asked)) == "nothing is being compiled"


def test_a_wrong_residual_is_refused_while_compiling(always):
    compiled = torch.compile(nw.GroupNorm(3, 6), backend=BACKEND)
    with pytest.raises(ValueError, match="residual"):
        compiled(torch.randn(2, 6, 8, 9), torch.randn(2, 6, 8, 1))


def test_known_moments_get_no_gradient_and_come_back():
    x = torch.randn(2, 6, 8, 9, requires_grad=True)
    known = Moments(torch.randn(1, 6, dtype=torch.float64), torch.rand(1, 6, dtype=torch.float64) + 0.5, 1)
    request = Request(x, bound(formulas.standardized, eps=1e-5), (None, None), known=known)
    way = compiled.Compiled(request, 0)
    y, kept = way.run(request)
    table = way.statistics(request, kept)
    assert torch.equal(table.mean, known.mean)
    assert not y.requires_grad or table.mean.requires_grad is False
    want = (x.double() - known.mean[..., None, None]) / (known.var[..., None, None] + 1e-5).sqrt()
    assert_close(y.double(), want, rtol=0, atol=1e-6)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_code_generator_takes_the_operators(always):
    layer = nn.Sequential(nn.Conv2d(3, 6, 3, bias=False), nw.BatchNorm2d(6, activation="relu"), nw.GroupNorm(3, 6))
    x = torch.randn(4, 3, 12, 13)
    expected = layer(x)
    expected.square().mean().backward()
    wanted = [p.grad.clone() for p in layer.parameters()]
    layer.zero_grad()
    y = torch.compile(layer, fullgraph=True)(x)
    y.square().mean().backward()
    assert_close(y, expected, rtol=0, atol=1e-5)
    for p, want in zip(layer.parameters(), wanted, strict=True):
        assert_close(p.grad, want, rtol=1e-4, atol=1e-5)
