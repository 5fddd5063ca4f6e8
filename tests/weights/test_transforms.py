"""Compiled, exported, mapped and functional calls give what the plain call gives."""

import copy

import pytest
import torch
from torch import nn
from torch.func import functional_call, grad, jvp, stack_module_state, vmap
from torch.testing import assert_close

from normwise.weights import (
    ScaledWSConv2d,
    WSConv2d,
    scaled_weight_standardization,
    sigma,
    spectral_norm,
    weight_standardization,
)

# torch itself compiles its forward-mode rules with torch.jit.script on their first use.
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")

KINDS = {
    "spectral": lambda: spectral_norm(nn.Conv2d(3, 4, 3, padding=1)),
    "spectral-transposed": lambda: spectral_norm(nn.ConvTranspose2d(3, 4, 3), n_power_iterations=2),
    "operator": lambda: spectral_norm(nn.Conv2d(3, 4, 3, padding=1), operator=True),
    "ws": lambda: weight_standardization(nn.Conv2d(3, 4, 3)),
    "scaled-transposed": lambda: scaled_weight_standardization(nn.ConvTranspose2d(3, 4, 3)),
    "WSConv": lambda: WSConv2d(3, 4, 3),
    "ScaledWSConv": lambda: ScaledWSConv2d(3, 4, 3, gamma="relu"),
}
every_kind = pytest.mark.parametrize("make", KINDS.values(), ids=KINDS)
#: To compile and to export is slow: one of each computation always.
ALWAYS = ("spectral", "operator", "ScaledWSConv")
every_kind_in_time = pytest.mark.parametrize(
    "make", [pytest.param(KINDS[k], id=k, marks=() if k in ALWAYS else pytest.mark.slow) for k in KINDS]
)


def trained(layer, call, steps=3):
    """Two forwards before each backward; what the state is after some steps."""
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        real, fake = (torch.randn(2, 3, 6, 6, generator=generator) for _ in range(2))
        optimizer.zero_grad()
        (call(real).square().mean() - call(fake).mean()).backward()
        optimizer.step()
    return layer.state_dict()


@every_kind_in_time
def test_compiles_to_one_graph_and_trains_alike(make):
    layer = make()
    twin = copy.deepcopy(layer)
    compiled = torch.compile(twin, fullgraph=True, backend="aot_eager")
    assert_close(trained(twin, compiled), trained(layer, layer), rtol=1e-5, atol=1e-6)
    x = torch.randn(2, 3, 6, 6)
    assert_close(compiled.eval()(x), layer.eval()(x), rtol=1e-5, atol=1e-6)


@every_kind_in_time
def test_exports(make):
    layer = make().eval()
    x = torch.randn(2, 3, 6, 6)
    program = torch.export.export(layer, (x,))
    assert_close(program.module()(x), layer(x), rtol=1e-5, atol=1e-6)
    assert not any("copy_" in str(node.target) for node in program.graph.nodes)  # evaluation writes no buffer


@every_kind
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_ensembles_by_vmap(make, training):
    """Stacked weights and buffers, one call, and as many power iterations as the models do by themselves.

    Sequential because each parametrized layer has a class of its own, which stacking refuses.
    """
    layers = [nn.Sequential(make()).train(training) for _ in range(3)]
    for layer in layers:
        with torch.no_grad():
            for parameter in layer.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
    parameters, buffers = stack_module_state(layers)
    base, x = copy.deepcopy(layers[0]), torch.randn(2, 3, 6, 6)
    together = vmap(lambda p, b: functional_call(base, (p, b), (x,)))(parameters, buffers)
    assert_close(together, torch.stack([layer(x) for layer in layers]), rtol=1e-5, atol=1e-5)
    for key, stacked in buffers.items():
        assert_close(stacked, torch.stack([layer.get_buffer(key) for layer in layers]), rtol=1e-5, atol=1e-6)


@every_kind
def test_function_transforms_in_evaluation(make):
    layer = make().double().eval()
    x = torch.randn(2, 3, 6, 6, dtype=torch.float64)
    parameters = {k: v.detach() for k, v in layer.named_parameters()}
    tangents = {k: torch.randn_like(v) for k, v in parameters.items()}

    def loss(p):
        return functional_call(layer, p, (x,)).tanh().sum()

    gradients = grad(loss)(parameters)
    layer(x).tanh().sum().backward()
    for key, parameter in layer.named_parameters():
        assert_close(gradients[key], parameter.grad)
    _, directional = jvp(loss, (parameters,), (tangents,))
    assert_close(directional, sum((gradients[k] * tangents[k]).sum() for k in parameters))


def test_functional_call_with_another_weight_iterates_for_it():
    """The weight of a functional call is another tensor with the same name: its values count."""
    layer = spectral_norm(nn.Linear(5, 5), n_power_iterations=200)
    key = "parametrizations.weight.original"
    other = torch.randn(5, 5)
    functional_call(layer, {key: other}, (torch.randn(1, 5),))
    layer.eval()
    y = functional_call(layer, {key: other}, (torch.eye(5),)) - layer.bias
    assert torch.linalg.matrix_norm(y, 2).item() == pytest.approx(1.0, abs=1e-3)


def test_compiled_operator_norm_follows_the_weight_in_evaluation():
    layer = spectral_norm(nn.Conv2d(3, 4, 3), operator=True).eval()
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    compiled(torch.randn(1, 3, 5, 5))
    with torch.no_grad():
        layer.parametrizations.weight.original.copy_(torch.randn(4, 3, 3, 3))
    x = torch.randn(1, 3, 5, 5)
    assert_close(compiled(x), layer(x))
    assert sigma(layer).operator == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize("of", ["input", "weight"])
@pytest.mark.parametrize("transform", ["grad", "jvp"])
def test_spectral_norm_in_training_inside_a_transform(of, transform):
    """The vectors move once, and the derivative is that of autograd, which is torch's own layer's as well."""
    layer, x = spectral_norm(nn.Linear(5, 7)).double(), torch.randn(3, 5, dtype=torch.float64)
    parameters = {name: p.detach() for name, p in layer.named_parameters()}
    with torch.no_grad():
        layer.parametrizations.weight.original.add_(0.1)  # the vectors have something to learn
    parameters = {name: p.detach().clone() for name, p in layer.named_parameters()}
    twin, key = copy.deepcopy(layer), "parametrizations.weight.original"

    def call(t):
        own, given = (parameters, t) if of == "input" else ({**parameters, key: t}, x)
        return torch.func.functional_call(layer, own, (given,)).sin().sum()

    leaf = x if of == "input" else parameters[key]
    if transform == "grad":
        found = torch.func.grad(call)(leaf)
    else:
        found = torch.func.jvp(call, (leaf,), (torch.ones_like(leaf),))[1]
    x.requires_grad_()
    wanted = x if of == "input" else twin.parametrizations.weight.original
    (expected,) = torch.autograd.grad(twin(x).sin().sum(), wanted)
    assert_close(found, expected if transform == "grad" else expected.sum())
    assert_close(dict(layer.named_buffers()), dict(twin.named_buffers()))
