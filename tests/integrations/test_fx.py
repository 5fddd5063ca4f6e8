"""torch.fx: functions as nodes, symbols beside real inputs, users' subclasses and hooks."""

import copy
import pickle

import pytest
import torch
from functional_cases import ALPHA, BIAS, GATE, MIX, RUNNING, SHAPE, SHIFT, STYLE, WEIGHT, V, data
from torch import fx, nn
from torch.testing import assert_close

import normwise as nw
import normwise.functional as nf

X = torch.randn(2, 8, 3, 3)
ROWS = (SHAPE[-1],)
#: A call of each public function, of a symbol.
CALLS = {
    "adaptive_instance_norm": lambda x: nf.adaptive_instance_norm(x, nf.style_statistics(STYLE)),
    "add_layer_norm": lambda x: nf.add_layer_norm(x, x * 2, ROWS)[0],
    "add_rms_norm": lambda x: nf.add_rms_norm(x, x * 2, ROWS)[1],
    "batch_instance_norm": lambda x: nf.batch_instance_norm(x, GATE / 2, RUNNING)[0],
    "batch_norm": lambda x: nf.batch_norm(x, RUNNING, WEIGHT, BIAS, activation="relu", residual=x)[0],
    "batch_renorm": lambda x: nf.batch_renorm(x, RUNNING)[0],
    "dynamic_erf": lambda x: nf.dynamic_erf(x, ALPHA, SHIFT),
    "dynamic_tanh": lambda x: nf.dynamic_tanh(x, ALPHA, WEIGHT, dim=1),
    "evo_norm_b0": lambda x: nf.evo_norm_b0(x, V)[0],
    "evo_norm_s0": lambda x: nf.evo_norm_s0(x, V, 3),
    "filter_response_norm": lambda x: nf.filter_response_norm(x, WEIGHT),
    "ghost_batch_norm": lambda x: nf.ghost_batch_norm(x, ghost_size=2)[0],
    "global_response_norm": lambda x: nf.global_response_norm(x, WEIGHT, BIAS),
    "gated_rms_norm": lambda x: nf.gated_rms_norm(x, x * 2),
    "group_norm": lambda x: nf.group_norm(x, 3)[0],
    "ibn": lambda x: nf.ibn(x, 3)[0],
    "initial_statistics": lambda x: x + nf.initial_statistics(3).mean,
    "instance_norm": lambda x: nf.instance_norm(x, nf.instance_norm(x * 2)[1])[0],
    "layer_norm": lambda x: nf.layer_norm(x, ROWS),
    "layer_norm2d": lambda x: nf.layer_norm2d(x, WEIGHT),
    "measure": lambda x: nf.measure(x).mean,
    "modulated_layer_norm": lambda x: nf.modulated_layer_norm(x, x * 2),
    "modulated_rms_norm": lambda x: nf.modulated_rms_norm(x, x * 2, x),
    "moment_shortcut": lambda x: nf.moment_shortcut(x, x * 2, x),
    "positional_norm": lambda x: nf.positional_norm(x)[0],
    "rms_norm": lambda x: nf.rms_norm(x, ROWS),
    "rms_norm2d": lambda x: nf.rms_norm2d(x, WEIGHT),
    "style_statistics": lambda x: nf.style_statistics(x).mean,
    "switchable_norm": lambda x: nf.switchable_norm(x, MIX, MIX)[0],
    "update_statistics": lambda x: nf.update_statistics(RUNNING, nf.batch_norm(x)[1]).mean,
}


def test_the_list_has_every_function():
    public = {name for name, value in vars(nf).items() if not name.startswith("_") and callable(value)}
    assert set(CALLS) == {name for name in public if not isinstance(getattr(nf, name), type)}


@pytest.mark.parametrize("name", CALLS)
def test_a_function_is_one_node(name):
    graph = fx.symbolic_trace(CALLS[name])
    nodes = [node for node in graph.graph.nodes if getattr(nf, name) is node.target]
    assert len(nodes) == (name != "initial_statistics") + (name == "instance_norm")
    assert_close(graph(data()), CALLS[name](data()))


def test_a_graph_with_a_function_is_pickled():
    class Net(nn.Module):
        def forward(self, x):
            y, statistics = nf.batch_norm(x)
            return nf.layer_norm(y, [3]) + statistics.var.sum()

    graph = fx.symbolic_trace(Net())
    assert_close(pickle.loads(pickle.dumps(graph))(X), Net()(X))


@pytest.mark.parametrize("function", [nw.normalize, lambda *a, **o: nw.normalize_and_measure(*a, **o)[0]])
def test_an_own_formula_is_one_node(function):
    def by_batch(moments, weight):
        pooled = moments.over_batch()
        return nw.Affine(pooled.mean, weight * (pooled.var + 1e-5).rsqrt(), 0.0)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.rand(8))

        def forward(self, x):
            return function(x, by_batch, self.weight, activation="relu") + 1

    net = Net()
    graph = fx.symbolic_trace(net)
    assert any("by_by_batch" in node.name for node in graph.graph.nodes)
    assert_close(copy.deepcopy(graph)(X), net(X))


class WithConstant(nn.Module):
    """A layer of a constant, with a symbol beside it."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer
        self.register_buffer("constant", X)

    def forward(self, other):
        return self.layer(self.constant, other)


BESIDE = {
    "residual": (lambda: nw.GroupNorm(2, 8), X + 1),
    "residual of a batch norm": (lambda: nw.BatchNorm2d(8, activation="relu"), X + 1),
    "residual of an instance norm": (lambda: nw.InstanceNorm2d(8), X + 1),
    "class": (lambda: nw.ConditionalBatchNorm2d(8, 3), torch.tensor([0, 2])),
    "style": (lambda: nw.AdaptiveInstanceNorm(), X + 1),
}


@pytest.mark.parametrize("what", BESIDE)
def test_a_symbol_beside_a_real_input(what):
    make, other = BESIDE[what]
    model = WithConstant(make()).eval()
    assert_close(fx.symbolic_trace(model)(other), model(other))


class Rows(nw.LayerNorm):
    """The channels of maps, as many write it."""

    def forward(self, x):
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Tripled(nw.BatchNorm2d):
    def forward(self, x):
        return super().forward(x) * 3


class Standardized(nw.WSConv2d):
    def forward(self, x):
        return super().forward(x + 1)


def test_a_forward_around_the_layers_own_is_applied_once():
    """The subclass is traced into, as one of torch's layers is; the node is the layer's own part."""
    model = nn.Sequential(Rows(8), Tripled(8), Standardized(8, 8, 3), nw.nets.residual.SkipGain(0.5))
    twin = copy.deepcopy(model)
    keys, graph = list(model.state_dict()), fx.symbolic_trace(model)
    assert_close(graph(X), twin(X))
    assert_close(model.state_dict(), twin.state_dict())
    assert list(model.state_dict()) == keys
    assert {id(p) for p in graph.parameters()} == {id(p) for p in model.parameters()}
    graph.eval()
    assert_close(graph(X), twin.eval()(X))
    assert_close(copy.deepcopy(graph).double()(X.double()), twin.double()(X.double()))


def test_hooks_are_applied_once():
    """Fx records what they do, as around every module that it does not know."""
    for layer in (nw.GroupNorm(2, 8), nw.BatchNorm2d(8)):
        layer.register_forward_pre_hook(lambda module, given: (given[0] * 2 + 1,))
        layer.register_forward_hook(lambda module, given, y: y * 3)
        model = nn.Sequential(layer).eval()
        assert_close(fx.symbolic_trace(model)(X), model(X))
        assert len(layer._forward_hooks) == 1


def call_of(layer):
    """With the tensors given, and left as they are."""

    def call(tensors, x):
        return torch.func.functional_call(layer, {name: t.clone() for name, t in tensors.items()}, (x,))

    return call


def test_functionalized():
    """With the buffers as arguments, as every transform wants them."""
    from torch.fx.experimental.proxy_tensor import make_fx

    for layer in (nw.BatchNorm2d(8), nw.BatchInstanceNorm2d(8)):
        tensors = dict(layer.named_parameters()) | dict(layer.named_buffers())

        graph = make_fx(torch.func.functionalize(call_of(layer)))(tensors, X)
        assert_close(graph(tensors, X + 1), call_of(layer)(tensors, X + 1))


def test_a_gate_outside_of_its_interval_learns_when_functionalized():
    layer = nw.BatchInstanceNorm2d(8)
    layer.gate.data.fill_(1.25)
    layer.eval()

    def gradient(gate):
        y = torch.func.functional_call(layer, {"gate": gate}, (X,))
        return (y * X.cos()).sum()

    expected = torch.func.grad(gradient)(layer.gate.detach())
    assert_close(torch.func.functionalize(torch.func.grad(gradient))(layer.gate.detach()), expected)
    assert expected.abs().min() > 0
