"""Values that a backward pass needs, and that somebody changes, replaces or releases after the forward pass."""

import contextlib
import copy

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import normwise as nw
from normwise.backends import cpu

LAYERS = {
    "batch": lambda: nw.BatchNorm2d(4),
    "batch, evaluation": lambda: nw.BatchNorm2d(4).eval(),
    "batch, activation": lambda: nw.BatchNorm2d(4, activation="gelu"),
    "group": lambda: nw.GroupNorm(2, 4),
    "instance": lambda: nw.InstanceNorm2d(4, affine=True),
    "instance, tracked": lambda: nw.InstanceNorm2d(4, affine=True, track_running_stats=True),
    "rows": lambda: nw.LayerNorm(8),
    "rows, by power": lambda: nw.RMSNorm(8),
    "pixels": lambda: nw.LayerNorm2d(4),
    "pixels, by power": lambda: nw.RMSNorm2d(4),
    "switchable": lambda: nw.SwitchableNorm2d(4),
    "ghost": lambda: nw.GhostBatchNorm2d(4, ghost_size=2),
    "renorm": lambda: nw.BatchRenorm2d(4, r_max=2.0, d_max=1.0),
    "batch-instance": lambda: nw.BatchInstanceNorm2d(4),
    "filter response": lambda: nw.FilterResponseNorm2d(4),
    "global response": lambda: nw.GlobalResponseNorm(4),
    "evo b0": lambda: nw.EvoNormB0(4),
    "evo s0": lambda: nw.EvoNormS0(4),
    "tanh": lambda: nw.DynamicTanh(8),
}
#: One that torch's operators are faster for, one for the kernels, and a large one.
SHAPES = [(2, 4, 3, 8), (8, 4, 32, 8), (8, 4, 256, 8)]


def _of_another_size(weight):
    weight.data = torch.ones(1)


def _larger(weight):
    weight.data = torch.ones(4 * weight.numel())


def _in_place(weight):
    with torch.no_grad():
        weight.add_(1)


def _released(weight):
    weight.untyped_storage().resize_(0)


@pytest.mark.parametrize("frozen", [False, True], ids=["trained", "frozen"])
@pytest.mark.parametrize("change", [_of_another_size, _larger, _in_place, _released])
@pytest.mark.parametrize("shape", SHAPES, ids=["small", "medium", "large"])
@pytest.mark.parametrize("name", LAYERS)
def test_a_weight_that_is_not_what_it_was_is_an_error(name, shape, change, frozen):
    if name == "instance" and change is _in_place and cpu.unavailable() is not None:
        pytest.skip("torch's instance_norm, which serves without kernels, has a copy of the weight")
    layer = LAYERS[name]().requires_grad_(not frozen)
    x = torch.randn(shape, requires_grad=True)
    y = layer(x)
    change(layer.weight)
    with pytest.raises((RuntimeError, ValueError), match=r"modified|values agree|released|shape|size|now"):
        y.backward(torch.randn_like(y))
    assert x.grad is None


@pytest.mark.parametrize("name", LAYERS)
def test_what_no_backward_needs_may_change(name):
    """Running statistics are copied: other forward passes move them."""
    layer = LAYERS[name]()
    x = torch.randn(8, 4, 32, 8, dtype=torch.float64, requires_grad=True)
    layer.double()
    cotangent = torch.randn(x.shape, dtype=x.dtype)
    before = torch.autograd.grad(copy.deepcopy(layer)(x), x, cotangent)[0]
    y = layer(x)
    if getattr(layer, "running_mean", None) is not None:
        layer.running_mean.add_(1)
    torch.testing.assert_close(torch.autograd.grad(y, x, cotangent)[0], before)


@pytest.mark.parametrize("shape", SHAPES, ids=["small", "medium", "large"])
@pytest.mark.parametrize("name", LAYERS)
def test_an_input_of_another_size_is_an_error(name, shape):
    layer = LAYERS[name]()
    x = torch.randn(shape)
    for change in (_of_another_size, _released):
        inner = x.clone().requires_grad_() * 1.0
        y = layer(inner)
        change(inner)
        with pytest.raises((RuntimeError, ValueError)):
            y.backward(torch.randn_like(y))


@pytest.mark.parametrize("name", ["batch", "group", "evo-b0", "switchable", "pixel-layer"])
def test_an_input_that_became_complex_is_an_error(name):
    layer, x = nw.make_norm(name, 4), torch.randn(2, 4, 3, 3, requires_grad=True)
    y = layer(x)
    x.data = x.data + 1j
    with pytest.raises(RuntimeError, match=r"complex64|shape or dtype"):
        y.sum().backward()


@pytest.mark.parametrize("graph", [False, True], ids=["gradient", "second derivative"])
@pytest.mark.parametrize("which", ["x", "weight"])
@pytest.mark.parametrize("change", [torch.Tensor.half, torch.Tensor.double, lambda t: t.flatten()[:1]])
@pytest.mark.parametrize("name", ["batch", "group", "instance affine", "pixel-layer", "pixel-rms", "ghost", "evo-s0"])
def test_another_dtype_or_shape_is_an_error_on_every_way(name, change, which, graph):
    layer = nw.InstanceNorm2d(4, affine=True) if name == "instance affine" else nw.make_norm(name, 4)
    x = torch.randn(2, 4, 3, 3, requires_grad=True)
    y = layer(x)
    t = {"x": x, "weight": layer.weight}[which]
    t.data = change(t.data)
    with pytest.raises((RuntimeError, ValueError), match=r"backward pass|between forward and backward|now"):
        torch.autograd.grad(y.square().sum(), [x, *layer.parameters()], create_graph=graph)


@pytest.mark.parametrize("shape", [(2, 4, 3, 3), (2, 4, 0, 3)], ids=["values", "none"])
@pytest.mark.parametrize("name", ["batch", "group", "ghost", "evo-s0"])
def test_a_released_parameter_is_an_error_of_no_values_too(name, shape):
    layer, x = nw.make_norm(name, 4), torch.randn(shape, requires_grad=True)
    y = layer(x)
    layer.weight.untyped_storage().resize_(0)
    with pytest.raises((RuntimeError, ValueError), match="released"):
        torch.autograd.grad(y.sum(), [x, *layer.parameters()], allow_unused=True)


@pytest.mark.parametrize("where", ["forward", "backward", "mode"])
@pytest.mark.parametrize("name", ["batch", "group", "instance", "row-layer", "row-rms", "pixel-layer", "switchable"])
def test_the_backward_pass_may_run_where_other_modes_hold(name, where):
    """Autocast around the forward pass alone is how everybody trains; a dispatch mode around the backward counts."""
    rows = {"row-layer": nw.LayerNorm, "row-rms": nw.RMSNorm}
    layer, shape = (rows[name](8), (4, 8)) if name in rows else (nw.make_norm(name, 8), (2, 8, 4, 4))
    x, grad_y = torch.randn(shape, requires_grad=True), torch.randn(shape)
    want = torch.autograd.grad(layer(x), [x, *layer.parameters()], grad_y)
    inside, outside = torch.autocast("cpu", dtype=torch.bfloat16), contextlib.nullcontext()
    for _ in range(2):  # the first of its kind, and one that is known
        with inside if where == "forward" else outside:
            y = layer(x)
        with FlopCounterMode(display=False) if where == "mode" else inside if where == "backward" else outside:
            found = torch.autograd.grad(y, [x, *layer.parameters()], grad_y)
        for got, expected in zip(found, want, strict=True):
            torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


CONDITIONS = {"labels": lambda: torch.tensor([0, 2]), "weights": lambda: torch.rand(2, 3)}
CONDITIONAL = [nw.ConditionalBatchNorm2d, nw.ConditionalInstanceNorm2d]


def _a_row(weight):
    weight.data = weight.data[:1].clone()


def _a_column(weight):
    weight.data = weight.data[:, :1].clone()


def _narrower(weight):
    weight.data = weight.data.half()


@pytest.mark.parametrize("table", ["weight", "bias"])
@pytest.mark.parametrize("change", [_of_another_size, _larger, _a_row, _a_column, _narrower, _released])
@pytest.mark.parametrize("condition", CONDITIONS)
@pytest.mark.parametrize("build", CONDITIONAL)
def test_a_table_of_conditions_that_is_not_what_it_was_is_an_error(build, condition, change, table):
    """A gradient for a table of another size would be kept, silently."""
    layer, x = build(4, 3), torch.randn(2, 4, 8, 8, requires_grad=True)
    y = layer(x, CONDITIONS[condition]())
    change(getattr(layer, table))
    with pytest.raises(RuntimeError, match=r"that the backward pass needs is|was released"):
        y.backward(torch.randn_like(y))
    assert getattr(layer, table).grad is None


@pytest.mark.parametrize("change", [_of_another_size, _larger, _a_row, _released])
@pytest.mark.parametrize("build", CONDITIONAL)
def test_weights_of_conditions_that_are_not_what_they_were_are_an_error(build, change):
    layer, x, condition = build(4, 3), torch.randn(2, 4, 8, 8, requires_grad=True), torch.rand(2, 3)
    y = layer(x, condition)
    change(condition)
    with pytest.raises(RuntimeError, match=r"that the backward pass needs is|was released"):
        y.backward(torch.randn_like(y))


def _beyond(labels):
    labels.data = torch.tensor([2**40, -7])


@pytest.mark.parametrize("change", [_beyond, _in_place, _of_another_size, _released])
@pytest.mark.parametrize("build", CONDITIONAL)
def test_labels_are_copied(build, change):
    """The backward pass writes into the tables' gradients by them."""
    layer, x, labels = build(4, 3), torch.randn(2, 4, 8, 8, requires_grad=True), torch.tensor([0, 2])
    cotangent = torch.randn(x.shape)
    want = torch.autograd.grad(copy.deepcopy(layer)(x, labels), x, cotangent)[0]
    y = layer(x, labels)
    change(labels)
    y.backward(cotangent)
    assert torch.equal(x.grad, want)
    assert layer.weight.grad[[0, 2]].any(1).all()
    assert not layer.weight.grad[1].any()


@pytest.mark.parametrize("condition", CONDITIONS)
@pytest.mark.parametrize("build", CONDITIONAL)
def test_a_condition_that_was_released_is_an_error(build, condition):
    given = CONDITIONS[condition]()
    given.untyped_storage().resize_(0)
    with pytest.raises(RuntimeError, match="was released"):
        build(4, 3)(torch.randn(2, 4, 8, 8), given)


def test_an_expanded_x_that_was_released_before_the_backward_of_rows():
    """It is made contiguous first, which reads it."""
    leaf = torch.randn(1, 2, 1, requires_grad=True)
    seen = (leaf * 1).expand(1, 2, 64)
    y = nw.functional.rms_norm(seen, (64,))
    seen.untyped_storage().resize_(0)
    with pytest.raises(RuntimeError, match="was released"):
        y.sum().backward()


@pytest.mark.parametrize(
    "make", [lambda: nw.BatchRenorm1d(2), lambda: nw.SwitchableNorm1d(2), lambda: nw.BatchNorm1d(2)]
)
@pytest.mark.parametrize("samples", [0, 3])
@pytest.mark.parametrize("name", ["running_mean", "running_var"])
def test_running_statistics_that_were_released_before_an_evaluation(make, samples, name):
    layer = make().eval()
    getattr(layer, name).untyped_storage().resize_(0)
    with pytest.raises(RuntimeError, match="was released"):
        layer(torch.randn(samples, 2, 2))
