"""Batch-Instance Normalization: its special cases, and gates that stay in [0, 1] and never die."""

import copy
import math

import one_step
import pytest
import torch
from mixtures import BATCH, GATED, INSTANCE
from torch import nn
from torch.autograd import forward_ad
from torch.testing import assert_close

import normwise as nw
from normwise.layers import gates
from normwise.layers.unit_interval import unit_interval


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize(("gate", "classes"), [(1.0, BATCH), (0.0, INSTANCE), (math.inf, BATCH), (-3.0, INSTANCE)])
def test_gates_at_their_ends_are_the_plain_layer(gate, classes, rank):
    ours, theirs = GATED[rank](6), classes[rank](6)
    nn.init.constant_(ours.gate, gate)
    for training in (True, False):
        x, cotangent = (one_step.data(one_step.SHAPES[rank], s, torch.float32) for s in (0, 1))
        got = one_step.step(ours.train(training), x, cotangent)
        assert_close(got[:4], one_step.step(theirs.train(training), x, cotangent), rtol=1e-5, atol=2e-5)


OPTIMIZERS = {
    "sgd": lambda p, **o: torch.optim.SGD(p, lr=0.1, **o),
    "momentum": lambda p, **o: torch.optim.SGD(p, lr=0.1, momentum=0.5, nesterov=True, **o),
    "weight decay": lambda p, **o: torch.optim.SGD(p, lr=0.1, weight_decay=0.1, **o),
    "adam": lambda p, **o: torch.optim.Adam(p, lr=0.1, betas=(0.5, 0.9), **o),
}


def pulled(layer, x, optimizer, sign, edge, call=None):
    """The gates after 20 steps that push them out at their edge and 20 that pull them back."""
    call, steps = layer if call is None else call, optimizer(gates(layer))
    with torch.no_grad():  # the outputs at both ends: along their difference the gate moves
        nn.init.zeros_(layer.gate)
        instance = layer(x)
        nn.init.ones_(layer.gate)
        direction = layer(x) - instance
        nn.init.constant_(layer.gate, edge)
    outward = 1 if edge == 1.0 else -1
    visited = []
    for k in range(40):
        pull = outward if k < 20 else -outward
        loss = sign * pull * (call(x) * direction).sum() / direction.square().sum()
        steps.zero_grad()
        loss.backward()
        steps.step()
        visited.append((layer.gate.detach() - edge) * outward)
    return torch.stack(visited)


@pytest.mark.parametrize("maximize", [False, True], ids=["minimize", "maximize"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("edge", [0.0, 1.0])
def test_a_gate_that_stepped_outside_comes_back(edge, optimizer, maximize):
    """A gate behind a plain clamp would stay outside for good, and one that nobody clips as long as it was pushed."""
    layer, x = nw.BatchInstanceNorm2d(3), one_step.data((4, 3, 4, 4), dtype=torch.float32)
    make = OPTIMIZERS[optimizer]
    out = pulled(layer, x, lambda p: make(p, maximize=maximize), 1 if maximize else -1, edge)
    assert (out[:2] > 0).all(), "the test must push the gate outside"
    assert (out < 0.3).all(), "and the overshoot is that of a step or two"
    assert (out[30] < 0).all(), "every gate came back inside within half of the steps"


def test_a_gate_comes_back_in_a_compiled_layer():
    layer, x = nw.BatchInstanceNorm2d(3), one_step.data((4, 3, 4, 4), dtype=torch.float32)
    torch.compiler.reset()
    call = torch.compile(layer, backend="aot_eager", fullgraph=True)
    out = pulled(layer, x, lambda p: torch.optim.SGD(p, lr=0.1, maximize=True), 1, 1.0, call)
    assert (out < 0.3).all()
    assert (out[30] < 0).all()


def test_clipping_disturbs_no_graph_and_nothing_that_is_not_trained():
    layer, x = nw.BatchInstanceNorm2d(2), one_step.data((4, 2, 4, 4), dtype=torch.float32)
    with torch.no_grad():
        layer.gate.copy_(torch.tensor([1.5, -0.5]))
    version = layer.gate._version
    layer.eval()(x)
    with torch.no_grad():
        layer.train()(x)
    layer.gate.requires_grad_(False)
    layer(x)
    torch.func.functional_call(layer.requires_grad_(), {"gate": layer.gate * 1}, (x,))
    assert layer.gate.tolist() == [1.5, -0.5], "only training clips"
    first, second = layer(x), layer(x)
    assert layer.gate.tolist() == [1.0, 0.0]
    assert layer.gate._version == version
    (first + second).square().sum().backward()


# torch compiles its forward-mode rules with torch.jit.script on their first use.
@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")
def test_gradients_are_whole():
    """Nothing is cut, so sums over micro-batches and processes are those of the batch."""
    gate = torch.tensor([0.0, 0.0, 1.0, 1.0, 1.5, 1.5, -0.5, -0.5], dtype=torch.float64, requires_grad=True)
    cotangent = torch.tensor([1.0, -1.0, 1.0, -1.0, 1.0, -1.0, 1.0, -1.0], dtype=torch.float64)
    (grad,) = torch.autograd.grad(unit_interval(gate), gate, cotangent)
    assert torch.equal(grad, cotangent)
    inside = torch.tensor([0.2, 0.7], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(unit_interval, inside)
    with forward_ad.dual_level():
        dual = unit_interval(forward_ad.make_dual(inside.detach(), torch.ones_like(inside)))
        assert_close(forward_ad.unpack_dual(dual).tangent, torch.ones_like(inside))


@pytest.mark.filterwarnings("ignore:.torch.jit.trace.* is deprecated:DeprecationWarning")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")  # the checks of the input's shape, as in torch.nn
def test_a_trace_holds_no_python_function():
    layer, x = one_step.trained(nw.BatchInstanceNorm2d(6)).eval(), one_step.data((4, 6, 5, 5), dtype=torch.float32)
    trace = torch.jit.trace(layer, (x,))
    assert "^" not in str(trace.graph)
    assert_close(trace(x * 2), layer(x * 2))


def test_gates_are_found_once_and_in_copies():
    shared = nw.BatchInstanceNorm2d(4)
    model = nn.Sequential(shared, nn.Conv2d(4, 4, 1), shared, nn.Sequential(nw.BatchInstanceNorm2d(4, affine=False)))
    assert [id(g) for g in gates(model)] == [id(shared.gate), id(model[3][0].gate)]
    twin = copy.deepcopy(model)
    assert len(gates(twin)) == 2
    assert not {id(g) for g in gates(twin)} & {id(g) for g in gates(model)}
    assert gates(nn.Linear(1, 1)) == []


@pytest.mark.parametrize("training", [True, False])
def test_planes_of_one_value_have_no_style(training):
    """The authors' code raises here, in evaluation too: what is left is the batch's share."""
    ours = one_step.trained(nw.BatchInstanceNorm2d(6, dtype=torch.float64)).train(training)
    theirs = nn.BatchNorm2d(6, affine=False, dtype=torch.float64).train(training)
    x = one_step.data((8, 6, 1, 1))
    features = nw.BatchInstanceNorm1d(6, dtype=torch.float64).train(training)
    features.load_state_dict(ours.state_dict())
    expected = theirs(x).view(8, 6) * ours.gate * ours.weight + ours.bias
    assert_close(ours(x).view(8, 6), expected)
    assert_close(features(x.view(8, 6)), expected)


def test_without_affine_the_gate_remains():
    layer = nw.BatchInstanceNorm2d(6, affine=False)
    assert [name for name, _ in layer.named_parameters()] == ["gate"]
    layer(torch.randn(3, 6, 4, 4)).square().sum().backward()
    assert layer.gate.grad.isfinite().all()


def test_a_nan_gate_shows_in_its_channel_alone():
    layer = nw.BatchInstanceNorm2d(6)
    with torch.no_grad():
        layer.gate[2] = math.nan
    y = layer(torch.randn(3, 6, 4, 4))
    assert y[:, 2].isnan().all()
    assert y[:, [0, 1, 3, 4, 5]].isfinite().all()


def test_one_value_per_channel_is_an_error():
    with pytest.raises(ValueError, match="BatchInstanceNorm2d: Expected more than 1 value per channel"):
        nw.BatchInstanceNorm2d(6)(torch.randn(1, 6, 1, 1))
