"""The general path with formulas of a user's own, against autograd through the written-out equation."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from marks import needs_kernels
from torch.testing import assert_close

from normwise import ACTIVATIONS, Affine, Moments, normalize, normalize_and_measure, use_backend
from normwise.core import formulas

SHAPES = [(4, 6), (3, 6, 5), (2, 6, 3, 4), (1, 6, 2, 2, 3), (3, 6, 1, 1)]


def seeded(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def mixture(moments, weight, bias, mix):
    """Instance, layer and batch statistics in learned proportion, with a per-channel affine."""
    parts = (moments, moments.over_channels(), moments.over_batch())
    share = mix.softmax(0)
    mean = sum(share[k] * p.mean for k, p in enumerate(parts))
    var = sum(share[k] * p.var for k, p in enumerate(parts))
    return Affine(mean, weight * (var + 1e-3).rsqrt(), bias)


def mixture_written_out(x, weight, bias, mix):
    space = tuple(range(2, x.dim()))
    axes = [space, (1, *space), (0, *space)] if space else [None, (1,), (0,)]
    share = mix.softmax(0)
    mean, var = torch.zeros_like(x), torch.zeros_like(x)
    for k, axis in enumerate(axes):
        if axis is None:
            mean = mean + share[k] * x
        else:
            mean = mean + share[k] * x.mean(axis, keepdim=True)
            var = var + share[k] * x.var(axis, correction=0, keepdim=True)
    shape = (1, -1) + (1,) * len(space)
    return (x - mean) * (weight.view(shape) * (var + 1e-3).rsqrt()) + bias.view(shape)


def arguments(shape):
    x = seeded(*shape).requires_grad_()
    weight, bias = seeded(shape[1], seed=1).requires_grad_(), seeded(shape[1], seed=2).requires_grad_()
    return x, weight, bias, seeded(3, seed=3).requires_grad_()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("activation", [None, "relu", "silu"])
@pytest.mark.parametrize("with_residual", [False, True])
def test_value_and_gradients_of_a_mixture(shape, activation, with_residual):
    inputs = arguments(shape)
    residual = seeded(*shape, seed=5).requires_grad_() if with_residual else None
    y = normalize(inputs[0], mixture, *inputs[1:], activation=activation, residual=residual)
    expected = mixture_written_out(*inputs)
    expected = expected if residual is None else expected + residual
    expected = expected if activation is None else ACTIVATIONS[activation].function(expected)
    assert_close(y, expected, rtol=1e-9, atol=1e-10)
    leaves = [*inputs, residual] if with_residual else list(inputs)
    cotangent = seeded(*shape, seed=9)
    got = torch.autograd.grad(y, leaves, cotangent)
    want = torch.autograd.grad(expected, leaves, cotangent)
    for g, w in zip(got, want, strict=True):
        assert_close(g, w, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("shape", [(3, 4, 5), (2, 4, 2, 2)])
def test_first_and_second_derivatives_by_finite_differences(shape):
    x = seeded(*shape).requires_grad_()
    parameters = [seeded(n, seed=s).requires_grad_() for n, s in ((4, 1), (4, 2), (3, 3))]
    residual = seeded(*shape, seed=5).requires_grad_()
    mask = torch.rand(shape[0], *shape[2:], generator=torch.Generator().manual_seed(3)) < 0.7

    def call(x, residual, *parameters):
        return normalize(x, mixture, *parameters, activation="tanh", residual=residual, mask=mask)

    assert torch.autograd.gradcheck(call, (x, residual, *parameters))
    assert torch.autograd.gradgradcheck(call, (x, residual, *parameters))


def test_higher_derivative_when_a_parameter_depends_on_the_input():
    # The derivative through the parameter's own history must not be counted twice.
    def call(x):
        weight = x.mean((0, 2)).sin()
        return normalize(x, partial(formulas.instance_norm, eps=1e-3), weight, None)

    assert torch.autograd.gradgradcheck(call, (seeded(2, 3, 4).requires_grad_(),))


def test_second_backward_with_retained_graph_is_the_same():
    inputs = arguments((2, 6, 3))
    y = normalize(inputs[0], mixture, *inputs[1:])
    cotangent = seeded(2, 6, 3, seed=9)
    first = torch.autograd.grad(y, inputs, cotangent, retain_graph=True)
    for one, two in zip(first, torch.autograd.grad(y, inputs, cotangent), strict=True):
        assert torch.equal(one, two)


def test_only_the_wanted_gradients():
    x, weight, bias, mix = arguments((2, 6, 3))
    y = normalize(x.detach(), mixture, weight, bias.detach(), mix)
    cotangent = seeded(2, 6, 3, seed=9)
    got = torch.autograd.grad(y, [weight, mix], cotangent)
    want = torch.autograd.grad(mixture_written_out(x, weight, bias, mix), [weight, mix], cotangent)
    for g, w in zip(got, want, strict=True):
        assert_close(g, w, rtol=1e-8, atol=1e-9)
    assert not normalize(x.detach(), mixture, weight.detach(), bias.detach(), mix.detach()).requires_grad


def test_known_moments_are_used_and_constant():
    x = seeded(4, 3, 5).requires_grad_()
    known = Moments(torch.full((1, 3), 2.0, dtype=torch.float64), torch.full((1, 3), 9.0, dtype=torch.float64), 1)
    y, table = normalize_and_measure(x, partial(formulas.standardized, eps=0.0), None, None, moments=known)
    assert_close(y, (x - 2) / 3)
    assert table.mean.eq(2).all()
    cotangent = seeded(4, 3, 5, seed=9)
    assert_close(torch.autograd.grad(y, x, cotangent)[0], cotangent / 3)


def test_a_formula_without_statistics_or_center():
    x = seeded(2, 3, 4).requires_grad_()
    weight = seeded(3, seed=1).requires_grad_()
    y = normalize(x, lambda moments, w: Affine(0.0, w.expand_as(moments.mean), 1.0), weight)
    assert_close(y, x * weight.view(1, 3, 1) + 1)
    got = torch.autograd.grad(y, [x, weight], torch.ones_like(y))
    assert_close(got[0], weight.view(1, 3, 1).expand_as(x), rtol=1e-9, atol=1e-9)
    assert_close(got[1], x.sum((0, 2)).detach(), rtol=1e-9, atol=1e-9)


def test_a_parameter_hidden_in_the_formula_is_refused():
    weight = torch.nn.Parameter(torch.ones(3))
    with pytest.raises(ValueError, match=r"not among its parameters \(shape \(3,\)\); pass it"):
        normalize(
            torch.randn(2, 3, 4), lambda m, b: Affine(m.mean, weight * 2 * m.var, b), torch.zeros(3).requires_grad_()
        )


@pytest.mark.parametrize("constants", [{"eps": True}, {"target": True}], ids=["a number", "in a tuple"])
def test_a_parameter_hidden_in_the_constants_of_our_own_formulas_is_refused(constants):
    hidden = torch.nn.Parameter(torch.full((1, 3), 1e-3))
    formula = partial(formulas.instance_norm, eps=hidden)
    if "target" in constants:
        target = formulas.RenormTarget(torch.zeros(1, 3), torch.ones(1, 3), 3.0, hidden)
        formula = partial(formulas.batch_renorm, target=target, eps=1e-5)
    with pytest.raises(ValueError, match=r"not among its parameters \(shape \(1, 3\)\); pass it"):
        normalize(torch.randn(2, 3, 4), formula, torch.ones(3, requires_grad=True), None)


@pytest.mark.parametrize("given", [3.0, (0.0, 1.0, 0.0), None])
def test_a_formula_that_gives_something_else(given):
    with pytest.raises(TypeError, match=rf"one of Thresholded, Gated, LargerScale, received {type(given).__name__}"):
        normalize(torch.randn(2, 3, 4), lambda moments: given)


def test_a_shared_parameter_gets_both_gradients():
    x, weight = seeded(2, 3, 4), seeded(3, seed=1).requires_grad_()
    y = normalize(x, lambda m, w, b: Affine(m.mean, w * m.var.rsqrt(), b), weight, weight)
    plane = (x - x.mean(2, keepdim=True)) / x.var(2, correction=0, keepdim=True).sqrt()
    expected = plane * weight.view(1, 3, 1) + weight.view(1, 3, 1)
    cotangent = seeded(2, 3, 4, seed=9)
    assert_close(
        torch.autograd.grad(y, weight, cotangent)[0],
        torch.autograd.grad(expected, weight, cotangent)[0],
        rtol=1e-9,
        atol=1e-9,
    )


NATIVE = {
    "batch": (partial(formulas.batch_norm, eps=1e-5), lambda x, w: F.batch_norm(x, None, None, w, training=True)),
    "instance": (partial(formulas.instance_norm, eps=1e-5), lambda x, w: F.instance_norm(x, weight=w)),
    "group": (partial(formulas.group_norm, groups=2, eps=1e-5), lambda x, w: F.group_norm(x, 2, w)),
    "layer": (partial(formulas.layer_norm, eps=1e-5), lambda x, w: F.group_norm(x, 1, w)),
}


@needs_kernels
@pytest.mark.parametrize("name", NATIVE)
@pytest.mark.parametrize("offset", [1e3, 1e4])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_data_far_from_zero_costs_no_digits(name, offset, layout):
    """At mean/std = 1000 and more, fp32: output and gradients against fp64, far better than torch's operators."""
    formula, native = NATIVE[name]
    x = (seeded(4, 4, 16, 16) + offset).float().to(memory_format=layout)
    weight, cotangent = seeded(4, seed=1).float(), seeded(4, 4, 16, 16, seed=9).float()

    def results(f, dtype):
        leaves = [x.to(dtype).requires_grad_(), weight.to(dtype).requires_grad_()]
        y = f(*leaves)
        return [t.double() for t in (y.detach(), *torch.autograd.grad(y, leaves, cotangent.to(dtype)))]

    truth = results(native, torch.float64)
    ours = results(lambda x, w: normalize(x, formula, w, None), torch.float32)
    theirs = results(native, torch.float32)
    for want, got, other in zip(truth, ours, theirs, strict=True):
        error, their_error = ((t - want).square().mean().sqrt().item() for t in (got, other))
        # A few roundings of fp32 (6e-8 each) on values of the size of `want`, whatever the offset is.
        assert error <= 1e-6 * want.square().mean().sqrt().item()
        assert error <= 0.5 * their_error


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_dtype_and_layout_are_the_inputs(dtype, layout):
    x = seeded(2, 6, 3, 4).to(dtype).to(memory_format=layout).requires_grad_()
    y = normalize(x, mixture, torch.ones(6), torch.zeros(6), torch.zeros(3))
    assert y.dtype == dtype
    assert y.stride() == x.stride()
    (grad,) = torch.autograd.grad(y, x, torch.randn_like(y))
    assert grad.dtype == dtype
    assert grad.stride() == x.stride()


def test_autocast_does_not_change_the_policy():
    x = torch.randn(2, 6, 3, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = normalize(x, mixture, torch.ones(6), torch.zeros(6), torch.zeros(3))
    assert inside.dtype == torch.float32
    assert torch.equal(inside, normalize(x, mixture, torch.ones(6), torch.zeros(6), torch.zeros(3)))


def test_deterministic():
    inputs = arguments((4, 6, 5, 5))
    runs = []
    for _ in range(2):
        y = normalize(inputs[0], mixture, *inputs[1:])
        runs.append((y, *torch.autograd.grad(y, inputs, seeded(4, 6, 5, 5, seed=9))))
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"x": torch.ones(2, 3, 4, dtype=torch.int64)}, TypeError, r"floating tensor, received torch\.int64.*x\.float"),
        ({"x": torch.ones(2, 3, dtype=torch.complex64)}, TypeError, "floating tensor, received torch.complex64"),
        ({"x": torch.ones(3)}, ValueError, r"expects \[N, C, \*space\], received 1-D \[3\]"),
        ({"x": [1.0]}, TypeError, "expects a tensor, received list"),
        ({"residual": torch.ones(2, 3, 1)}, ValueError, r"residual must have the input's shape \[2, 3, 4\]"),
        ({"mask": torch.ones(2, 4)}, TypeError, r"mask must be a boolean tensor.*received torch\.float32"),
        ({"mask": torch.ones(2, 3, dtype=torch.bool)}, ValueError, r"mask must be \[N, \*space\] = \[2, 4\]"),
        ({"activation": "swish"}, ValueError, "Unknown activation 'swish'"),
    ],
)
def test_errors_say_what_to_write(change, error, message):
    options = {"x": torch.randn(2, 3, 4), **change}
    with pytest.raises(error, match=message):
        normalize(options.pop("x"), partial(formulas.batch_norm, eps=1e-5), None, None, **options)


def test_the_chosen_backend_serves_backward_too():
    x = seeded(2, 6, 3).requires_grad_()
    with use_backend("reference"):
        y = normalize(x, mixture, torch.ones(6), torch.zeros(6), torch.zeros(3))
    (grad,) = torch.autograd.grad(y, x, seeded(2, 6, 3, seed=9))
    leaf = x.detach().requires_grad_()
    expected = mixture_written_out(leaf, *(t.double() for t in (torch.ones(6), torch.zeros(6), torch.zeros(3))))
    assert_close(grad, torch.autograd.grad(expected, leaf, seeded(2, 6, 3, seed=9))[0], rtol=1e-6, atol=1e-7)
