"""normwise.functional under vmap, grad, jacrev, functional_call, compile and export."""

import pytest
import torch
from functional_cases import BIAS, EVERY, PLAIN, POOLED, RUNNING, SHAPE, WEIGHT, C, data, outputs
from torch import nn
from torch.func import functional_call, grad, jacfwd, jacrev, vmap
from torch.testing import assert_close

import normwise.functional as nf

# torch compiles its forward-mode rules with torch.jit.script on their first use.
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")


@pytest.mark.parametrize("name", EVERY)
def test_gradients_by_finite_differences(name, backend):
    function = outputs(name)
    x = (data() if name == "layer" else data()[:, :, :2].clone()).requires_grad_()
    with backend():
        assert torch.autograd.gradcheck(function, (x,), fast_mode=True)
        assert torch.autograd.gradgradcheck(function, (x,), fast_mode=True)


@pytest.mark.parametrize("name", POOLED)
def test_vmap_over_inputs_and_statistics(name):
    """Statistics are tensors alone, so a transform takes them in and gives them back."""
    function, xs = POOLED[name][0], torch.stack([data(seed) for seed in range(3)])
    y, statistics = vmap(function)(xs)
    expected = [function(x) for x in xs]
    assert_close(y, torch.stack([one[0] for one in expected]))
    for found, column in zip(statistics, zip(*(one[1] for one in expected), strict=True), strict=True):
        assert_close(found, torch.stack(column))
    again, _ = vmap(function)(xs, statistics)
    assert_close(again, torch.stack([function(x, s)[0] for x, s in zip(xs, [one[1] for one in expected], strict=True)]))


@pytest.mark.parametrize("name", PLAIN)
def test_vmap_over_inputs(name):
    function, xs = outputs(name), torch.stack([data(seed) for seed in range(3)])
    assert_close(vmap(function)(xs), torch.stack([function(x) for x in xs]))


@pytest.mark.parametrize("name", EVERY)
def test_jacobians(name):
    x = data()
    function, size = outputs(name), x[:1, :, :1].numel()

    def of_a_part(part):
        return function(torch.cat([torch.cat([part, x[:1, :, 1:]], 2), x[1:]]))[0].flatten()[:size]

    expected = torch.autograd.functional.jacobian(of_a_part, x[:1, :, :1])
    assert_close(jacrev(of_a_part)(x[:1, :, :1]), expected)
    assert_close(jacfwd(of_a_part)(x[:1, :, :1]), expected)


def test_gradients_per_sample():
    def loss(weight, x):
        return nf.group_norm(x[None], 2, None, weight)[0].pow(3).sum()

    found = vmap(grad(loss), in_dims=(None, 0))(WEIGHT, data())
    expected = [torch.autograd.functional.jacobian(lambda w, x=x: loss(w, x), WEIGHT) for x in data()]
    assert_close(found, torch.stack(expected))


@pytest.mark.parametrize("momentum", [0.1, None])
def test_an_ensemble_in_training(momentum):
    """Parameters and running statistics of three members, one batch: no in-place update to stumble over."""
    weights = torch.rand(3, C, dtype=torch.float64)
    running = nf.Running(*(torch.stack([t] * 3) for t in RUNNING))

    def step(weight, running, x):
        y, batch = nf.batch_norm(x, None, weight)
        return y, nf.update_statistics(running, batch, momentum)

    for in_dims, x in (((0, 0, None), data()), ((0, 0, 0), torch.stack([data(s) for s in range(3)]))):
        y, new = vmap(step, in_dims)(weights, running, x)
        for k in range(3):
            expected = step(weights[k], nf.Running(*(t[k] for t in running)), x if x.dim() == 4 else x[k])
            assert_close(y[k], expected[0])
            assert_close([t[k] for t in new], list(expected[1]))
    # Shared statistics, and an input of its own for each member: the new ones are the members' own.
    _, new = vmap(step, (None, None, 0))(WEIGHT, RUNNING, torch.stack([data(s) for s in range(3)]))
    assert new.mean.shape == (3, C)


class Net(nn.Module):
    """A module whose forward is written with the functions: statistics in, statistics out."""

    def __init__(self):
        super().__init__()
        self.weight, self.bias = nn.Parameter(WEIGHT.float()), nn.Parameter(BIAS.float())

    def forward(self, x, running):
        y, batch = nf.batch_norm(x, None, self.weight, self.bias, activation="relu")
        z, _ = nf.instance_norm(y, None, self.weight)
        return nf.rms_norm2d(z, self.weight), nf.update_statistics(running, batch)


def test_a_training_step_with_functional_call():
    net, running = Net().double(), nf.initial_statistics(C, dtype=torch.float64)
    parameters = dict(net.named_parameters())

    def loss(parameters, x):
        y, new = functional_call(net, parameters, (x, running))
        return y.pow(3).mean(), new

    grads, new = grad(loss, has_aux=True)(parameters, data())
    value, expected_new = loss(parameters, data())
    expected = torch.autograd.grad(value, list(parameters.values()))
    assert_close(list(grads.values()), list(expected))
    assert_close(list(new), list(expected_new))


def test_compile_and_export():
    torch.compiler.reset()
    net, x, running = Net(), data().float(), nf.initial_statistics(C)
    y, new = net(x, running)
    graph = torch.compile(net, fullgraph=True, backend="aot_eager")
    found, found_new = graph(x, running)
    assert_close(found, y)
    assert_close(list(found_new), list(new))
    cotangent = torch.randn(SHAPE)
    grads = torch.autograd.grad(found, list(net.parameters()), cotangent)
    assert_close(grads, torch.autograd.grad(y, list(net.parameters()), cotangent), rtol=1e-5, atol=1e-5)
    exported, exported_new = torch.export.export(net, (x, running)).module()(x, running)
    assert_close(exported, y)
    assert_close(list(exported_new), list(new))
