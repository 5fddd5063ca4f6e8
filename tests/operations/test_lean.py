"""Passes that keep their output alone: what is saved, gradients as those of the ordinary pass, and what is refused."""

import copy

import pytest
import torch
from torch import nn
from torch.testing import assert_close
from torch.utils.checkpoint import checkpoint

import normwise as nw

SHAPE = (4, 6, 5, 7)
MAKE = {
    "batch": lambda **o: nw.BatchNorm2d(6, **o),
    "group": lambda **o: nw.GroupNorm(3, 6, **o),
    "instance": lambda **o: nw.InstanceNorm2d(6, affine=True, **o),
    "plain instance": lambda **o: nw.InstanceNorm2d(6, **o),
    "tracked": lambda **o: nw.InstanceNorm2d(6, affine=True, track_running_stats=True, **o),
}
#: In roundings of the output's type: β is up to twice γ here, and x is γ times nearer to the sums' own rounding.
ROUNDINGS = {torch.float64: 64, torch.float32: 64, torch.bfloat16: 6}
TYPES = pytest.mark.parametrize("dtype", list(ROUNDINGS), ids=str)
#: In training, and in evaluation where that is something else.
MODES = [*((name, True) for name in MAKE), ("batch", False), ("tracked", False)]
ACTIVATIONS = pytest.mark.parametrize("activation", [None, "leaky_relu"])


def data(seed, dtype=torch.float64):
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def made(name, lean, **options):
    layer = MAKE[name](lean=lean, **options).double()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for key, t in layer.state_dict().items():
            if key != "num_batches_tracked":
                t.copy_(torch.rand(t.shape, generator=generator, dtype=torch.float64) + 0.5)
        if layer.weight is not None:
            layer.weight[1] *= -1  # of either sign
    return layer


def results(layer, x, cotangent):
    x = x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    y = layer(x)
    grads = torch.autograd.grad(y, [x, *layer.parameters()], cotangent)
    return [y.detach(), *grads, *(b for b in layer.buffers() if b.is_floating_point())]


@TYPES
@ACTIVATIONS
@pytest.mark.parametrize("mean", [0.0, 1000.0], ids=["at 0", "far from 0"])
@pytest.mark.parametrize(("name", "training"), MODES)
def test_gradients_are_those_of_the_ordinary_pass_in_fp64(name, training, mean, activation, dtype, backend):
    if mean and torch.finfo(dtype).bits == 16:
        mean = 8.0  # of which their deviations are still seen
    x, cotangent = (data(1) * 2 + mean).to(dtype), data(2, dtype)
    plain, lean = (made(name, kind, activation=activation).to(dtype).train(training) for kind in (False, True))
    want = results(copy.deepcopy(plain).double(), x.double(), cotangent.double())
    with backend():
        got = results(lean, x, cotangent)
        usual = results(plain, x, cotangent)
    # The yardstick is off by the rounding of x, too, which is the mean's.
    step = ROUNDINGS[dtype] * torch.finfo(dtype).eps * (1 + mean if dtype is torch.float64 else 1)
    for one, other, true in zip(got, usual, want, strict=True):
        assert one.dtype == other.dtype
        size = true.abs().max().clamp_min(1)
        bound = step + 2 * (other.double() - true).abs().max() / size  # what the ordinary pass is off by, far from 0
        assert ((one.double() - true).abs().max() / size) < bound


@pytest.mark.parametrize("size", [1e-15, 1e12])
def test_the_smallest_and_large_scales(size, backend):
    """γ² and γ|γ|/σ are numbers of fp32 still; the gradients are as exact as any."""
    x, cotangent = data(1, torch.float32), data(2, torch.float32)
    plain, lean = (made("batch", kind).float() for kind in (False, True))
    for layer in (plain, lean):
        with torch.no_grad():
            layer.weight.mul_(size)
            layer.bias.mul_(size)
    want = results(copy.deepcopy(plain).double(), x.double(), cotangent.double())
    with backend():
        got = results(lean, x, cotangent)
    for one, true in zip(got, want, strict=True):
        assert ((one.double() - true).abs().max() / true.abs().max()) < 64 * torch.finfo(torch.float32).eps


@ACTIVATIONS
@pytest.mark.parametrize("name", MAKE)
def test_the_output_is_all_that_is_kept_of_its_size(name, activation):
    layer, x, kept = made(name, True, activation=activation).float(), data(1, torch.float32).requires_grad_(), []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        y = layer(x)
    large = {t.data_ptr() for t in kept if t.numel() >= x.numel()}
    assert large == {y.data_ptr()}


def test_channels_last_and_the_call_again(backend):
    x, cotangent = (data(i, torch.float32).contiguous(memory_format=torch.channels_last) for i in (1, 2))
    plain, lean = (made("batch", kind, activation="leaky_relu").float() for kind in (False, True))
    for _ in range(2):
        with backend():
            assert_close(results(lean, x, cotangent), results(plain, x, cotangent), rtol=1e-4, atol=1e-5)
    x.requires_grad_()
    with backend():
        (grad,) = torch.autograd.grad(lean(x), x, cotangent)
    assert grad.is_contiguous(memory_format=torch.channels_last)


def test_only_the_parameters_or_only_the_input_want_a_gradient(backend):
    x, cotangent = data(1), data(2)
    lean, plain = made("batch", True), made("batch", False)
    with backend():
        found = [torch.autograd.grad(layer(x), list(layer.parameters()), cotangent) for layer in (lean, plain)]
        assert_close(*found)
        for layer in (lean, plain):
            layer.requires_grad_(False)
        leaves = [x.clone().requires_grad_() for _ in range(2)]
        found = [torch.autograd.grad(f(t), t, cotangent) for f, t in zip((lean, plain), leaves, strict=True)]
        assert_close(*found)


@pytest.mark.parametrize(
    ("weight", "bias", "dtype"),
    [(0.0, 0.0, torch.float32), (0.001, 1.0, torch.float32), (0.1, 1.0, torch.bfloat16), (-1e-19, 0.0, torch.float32)],
)
def test_a_scale_near_0_is_refused_and_nothing_is_remembered(weight, bias, dtype, backend):
    layer = nw.BatchNorm2d(6, lean=True).to(dtype)
    with torch.no_grad():
        layer.weight[2], layer.bias[2] = weight, bias
    x = data(1, dtype)
    with backend():
        with pytest.raises(ValueError, match=r"channel 2 has γ = .* and β = .*Write lean=False for this layer"):
            layer(x)
        assert layer.num_batches_tracked == 0
        with torch.no_grad():
            layer.eval()(x)  # without a gradient nothing is computed back


def test_what_cannot_be_undone_is_refused_in_one_sentence():
    x = data(1, torch.float32)
    layer = nw.BatchNorm2d(6, lean=True)
    with pytest.raises(ValueError, match="a residual is in the output, too; add it in an operation of its own"):
        layer(x, x)
    with pytest.raises(ValueError, match="with a mask the statistics are not those of all values"):
        layer(x, mask=torch.ones(4, 5, 7, dtype=torch.bool))
    layer.activation = "relu"
    with pytest.raises(ValueError, match="activation='relu' cannot be undone; write 'leaky_relu' or None"):
        layer(x)
    with pytest.raises(
        ValueError, match="activation='relu' cannot be undone; write 'leaky_relu' or None, or lean=False"
    ):
        nw.GroupNorm(2, 6, activation="relu", lean=True)
    with pytest.raises(TypeError, match="lean must be True or False, received 'yes'"):
        nw.InstanceNorm2d(6, lean="yes")
    with pytest.raises(ValueError, match="lean=True is for BatchNorm, InstanceNorm and GroupNorm alone"):
        nw.GhostBatchNorm2d(6, lean=True)
    assert layer.num_batches_tracked == 0


def test_second_derivatives_are_refused(backend):
    x = data(1).requires_grad_()
    with backend():
        y = made("batch", True)(x)
        with pytest.raises(RuntimeError, match=r"no second derivative.*build the layer with lean=False"):
            torch.autograd.grad(y.square().sum(), x, create_graph=True)


def test_an_output_that_was_changed_in_place_is_an_error_of_torch():
    y = made("batch", True)(data(1).requires_grad_())
    y.relu_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


@pytest.mark.parametrize("name", ["batch", "group"])
@pytest.mark.parametrize("parameter", ["weight", "bias"])
def test_a_parameter_that_was_released_between_the_passes_is_an_error(name, parameter, backend):
    layer = made(name, True)
    with backend():
        y = layer(data(1).requires_grad_())
        getattr(layer, parameter).untyped_storage().resize_(0)
        with pytest.raises(RuntimeError, match="was released or cut"):
            y.sum().backward()


@pytest.mark.parametrize("reentrant", [True, False])
def test_in_a_checkpoint(reentrant):
    layer, twin, x = made("batch", True), made("batch", True), data(1).requires_grad_()
    grads = [
        torch.autograd.grad(y, x, data(2))[0] if not reentrant else _backward(y, x)
        for y in (checkpoint(layer, x, use_reentrant=reentrant), twin(x))
    ]
    assert_close(*grads)
    assert_close(layer.state_dict(), twin.state_dict())


def _backward(y, x):
    x.grad = None
    y.backward(data(2))
    return x.grad.clone()


def test_a_compiled_model_keeps_what_its_compiler_chooses():
    layer, x = made("batch", True, activation="leaky_relu"), data(1).requires_grad_()
    compiled = torch.compile(copy.deepcopy(layer), backend="aot_eager", fullgraph=True)
    found = [torch.autograd.grad(f(x), x, data(2))[0] for f in (compiled, layer)]
    assert_close(*found)


def test_two_steps_of_training_go_where_the_ordinary_net_goes():
    torch.manual_seed(0)

    def net(lean):
        torch.manual_seed(1)
        parts = [nn.Conv2d(6, 8, 3), nw.BatchNorm2d(8, activation="leaky_relu", lean=lean), nn.Conv2d(8, 4, 3)]
        return nn.Sequential(*parts).double()

    nets = net(True), net(False)
    for step in range(2):
        for model in nets:
            model.zero_grad()
            model(data(step)).square().mean().backward()
            with torch.no_grad():
                for p in model.parameters():
                    p -= 0.1 * p.grad
    assert_close(nets[0].state_dict(), nets[1].state_dict())
