"""First and second derivatives against finite differences, and the ways in which people run a backward."""

import gc
import weakref

import pytest
import torch
from layer_cases import CASES, MAP_CASES, ONE_EACH, gradients, ids, randomize, twins
from torch.autograd import gradcheck, gradgradcheck
from torch.testing import assert_close

from normwise import use_backend

# Second differences cost the square of the number of values: small tensors of the same ranks.
SMALL = {2: (3, 6), 3: (2, 6, 2), 4: (2, 6, 2, 2), 5: (2, 6, 1, 2, 2)}


def small(case):
    if case in MAP_CASES:
        return case._replace(shape=SMALL[len(case.shape)])
    return case._replace(shape=(2, *case.shape[-len(case.build().normalized_shape) :]))


def double(*shape):
    return torch.randn(shape, dtype=torch.float64, requires_grad=True)


def function_of(layer, backend, mask=None):
    """The layer as a pure function of the input, the residual and its parameters."""
    names = [name for name, _ in layer.named_parameters()]

    def call(x, residual, *parameters):
        with backend():
            arguments = (x, residual, mask)
            return torch.func.functional_call(layer, dict(zip(names, parameters, strict=True)), arguments)

    return call


def check(case, backend, *, activation=None, with_residual=False, mask=None, training=True, thorough=False):
    """Second derivatives along random directions, or, ``thorough``, every entry (slow)."""
    layer = randomize(case.build(activation=activation)).double().train(training)
    call = function_of(layer, backend, mask)
    inputs = (double(*case.shape), double(*case.shape) if with_residual else None, *layer.parameters())
    assert gradcheck(call, inputs)
    assert gradgradcheck(call, inputs, fast_mode=not thorough)


@pytest.mark.parametrize("case", CASES, ids=ids)
def test_derivatives(case, backend):
    check(small(case), backend)


@pytest.mark.slow
@pytest.mark.parametrize("with_residual", [False, True], ids=["", "residual"])
@pytest.mark.parametrize("activation", [None, "silu"])
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("case", CASES, ids=ids)
def test_every_entry_of_the_second_derivatives(case, training, activation, with_residual, backend):
    options = {"activation": activation, "with_residual": with_residual, "training": training}
    check(small(case), backend, **options, thorough=True)


@pytest.mark.parametrize("case", [case for case in CASES if case.remembers], ids=ids)
def test_derivatives_in_evaluation(case, backend):
    check(small(case), backend, training=False, activation="gelu", with_residual=True)


# Smooth ones, for finite differences know nothing about kinks; one of each kind of derivative.
@pytest.mark.parametrize("activation", ["silu", "gelu_tanh", "mish"])
@pytest.mark.parametrize("case", ONE_EACH, ids=ids)
def test_derivatives_with_residual_and_activation(case, activation, backend):
    check(small(case), backend, activation=activation, with_residual=True)


@pytest.mark.parametrize("case", [case for case in MAP_CASES if case.rank in (1, 2)], ids=ids)
def test_derivatives_with_a_mask(case, backend):
    case = small(case)
    mask = torch.rand(case.shape[0], *case.shape[2:]) < 0.6
    mask.view(case.shape[0], -1)[:, :2] = True
    mask[0] = mask[0] if case.family == "GroupNorm" else True
    check(case, backend, activation="tanh", with_residual=True, mask=mask)


@pytest.mark.parametrize("case", [case for case in CASES if case not in MAP_CASES], ids=ids)
def test_derivatives_of_rows_with_a_mask(case, backend):
    case = small(case)
    mask = torch.rand(case.shape) < 0.6
    mask[..., :2] = True
    check(case, backend, activation="tanh", with_residual=True, mask=mask)


@pytest.mark.parametrize("case", CASES, ids=ids)
def test_second_backward_through_a_retained_graph(case, backend):
    layer = randomize(case.build(activation="silu"))
    x, residual = torch.randn(case.shape, requires_grad=True), torch.randn(case.shape, requires_grad=True)
    cotangent = torch.randn(case.shape)
    with backend():
        y = layer(x, residual)
    inputs = [x, residual, *layer.parameters()]
    first = gradients(y, inputs, cotangent)
    assert_close(gradients(y, inputs, cotangent), first, rtol=0, atol=0)
    y.backward(cotangent)
    assert_close([t.grad for t in inputs], first, rtol=0, atol=0)


@pytest.mark.parametrize("case", [case for case in CASES if "plain" not in case.id and "untr" not in case.id], ids=ids)
def test_input_without_gradient(case, backend):
    """The first layer of a network: the parameters' gradients alone."""
    ours, theirs = (layer.double() for layer in twins(case))
    x = torch.randn(case.shape, dtype=torch.float64)
    cotangent = torch.randn(case.shape)
    with backend():
        y = ours(x)
    expected = gradients(theirs(x), list(theirs.parameters()), cotangent)
    assert_close(gradients(y, list(ours.parameters()), cotangent), expected)


@pytest.mark.parametrize("frozen", ["weight", "bias"])
@pytest.mark.parametrize("case", CASES, ids=ids)
def test_frozen_parameters(case, frozen, backend):
    ours, theirs = (layer.double() for layer in twins(case, activation="relu"))
    for layer in (ours, theirs):
        if getattr(layer, frozen, None) is not None:
            getattr(layer, frozen).requires_grad_(False)
    x = torch.randn(case.shape, dtype=torch.float64, requires_grad=True)
    cotangent = torch.randn(case.shape)
    with backend():
        y = ours(x)
    y_true = torch.relu(theirs(x))
    wanted = [[x, *(p for p in layer.parameters() if p.requires_grad)] for layer in (ours, theirs)]
    assert_close(gradients(y, wanted[0], cotangent), gradients(y_true, wanted[1], cotangent))


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("case", CASES, ids=ids)
def test_two_forward_passes_before_one_backward(case, training, backend):
    """Siamese networks and discriminators: updating the buffers must not invalidate the first pass."""
    ours, theirs = (layer.double().train(training) for layer in twins(case))
    inputs = [torch.randn(case.shape, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    cotangent = torch.randn(case.shape, dtype=torch.float64)
    with backend():
        total = sum((ours(x) * cotangent).sum() * (k + 1) for k, x in enumerate(inputs))
    expected = sum((theirs(x) * cotangent).sum() * (k + 1) for k, x in enumerate(inputs))
    found = torch.autograd.grad(total, [*inputs, *ours.parameters()])
    assert_close(found, torch.autograd.grad(expected, [*inputs, *theirs.parameters()]))


@pytest.mark.parametrize("case", CASES, ids=ids)
def test_evaluation_between_forward_and_backward_of_another_batch(case, backend):
    """A running update after an evaluation pass must not change that pass' gradient."""
    ours, theirs = (layer.double().eval() for layer in twins(case))
    x = torch.randn(case.shape, dtype=torch.float64, requires_grad=True)
    cotangent = torch.randn(case.shape)
    with backend():
        y = ours(x)
        ours.train()(torch.randn(case.shape, dtype=torch.float64) * 9)
    expected = gradients(theirs(x), [x, *theirs.parameters()], cotangent)
    assert_close(gradients(y, [x, *ours.parameters()], cotangent), expected)


@pytest.mark.parametrize("case", [case for case in ONE_EACH if case in MAP_CASES], ids=ids)
def test_an_input_changed_after_the_forward_pass_is_noticed(case, backend):
    """As with torch's operators: an error, never a wrong gradient."""
    layer = case.build()
    x = torch.randn(case.shape, requires_grad=True)
    hidden = x * 1.0
    with backend():
        y = layer(hidden)
    hidden.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


@pytest.mark.parametrize("case", ONE_EACH, ids=ids)
def test_nothing_is_recorded_without_gradients(case, backend):
    layer = case.build()
    with backend():
        with torch.no_grad():
            assert not layer(torch.randn(case.shape, requires_grad=True)).requires_grad
        with torch.inference_mode():
            assert layer(torch.randn(case.shape)).is_inference()
        layer.requires_grad_(False)
        assert not layer(torch.randn(case.shape)).requires_grad


@pytest.mark.parametrize("case", ONE_EACH, ids=ids)
def test_the_graph_is_freed_with_the_output(case, backend):
    """No reference cycle keeps activations alive until the garbage collector comes."""
    layer = case.build(activation="silu")
    hidden = torch.randn(case.shape, requires_grad=True) * 1.0
    alive = weakref.ref(hidden)
    gc.disable()
    try:
        with backend():
            y = layer(hidden)
        y.sum().backward()
        del hidden, y
        assert alive() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("case", ONE_EACH, ids=ids)
def test_activations_kept_elsewhere(case, backend):
    """What a backward needs passes through the hooks for saved tensors: offloading works."""
    layer = randomize(case.build(activation="silu"))
    x, residual = torch.randn(case.shape, requires_grad=True), torch.randn(case.shape)
    cotangent = torch.randn(case.shape)
    inputs = [x, *layer.parameters()]
    with backend():
        expected = gradients(layer(x, residual), inputs, cotangent)
        with torch.autograd.graph.save_on_cpu():
            y = layer(x, residual)
    assert_close(gradients(y, inputs, cotangent), expected, rtol=0, atol=0)


@pytest.mark.parametrize("case", ONE_EACH, ids=ids)
def test_third_derivatives(case):
    """Of the library's own operations; those of torch's operators for batch and layer normalization are wrong."""
    layer = randomize(case.build(activation="tanh")).double()

    def slope(x):
        return torch.autograd.grad(layer(x).pow(3).sum(), x, create_graph=True)[0]

    with use_backend("reference"):
        assert gradgradcheck(slope, (double(*small(case).shape),), fast_mode=True)
