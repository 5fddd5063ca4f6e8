"""Evaluation after the weight and the stored vectors went apart: the norm is still that of the weight."""

import copy
import functools

import numpy as np
import pytest
import torch
from spectral_cases import norm_of, numpy_matrix, raw, step, vectors
from torch import nn
from torch.optim.swa_utils import AveragedModel
from torch.testing import assert_close

from normwise.weights import bake, sigma, spectral_norm

LAYERS = {
    "linear": lambda: nn.Linear(12, 9),
    "tall": lambda: nn.Linear(3, 40),
    "conv": lambda: nn.Conv2d(4, 6, 3, groups=2),
    "transposed": lambda: nn.ConvTranspose2d(4, 6, 3),
}


def trained(make, seed):
    return copy.deepcopy(_trained(make, seed))


@functools.cache
def _trained(make, seed):
    torch.manual_seed(seed)
    layer = spectral_norm(make())
    for _ in range(30):
        step(layer, 0.05)
        layer.weight  # noqa: B018  # reading is the access
    return layer


def averaged_by_torch(make):
    """Weights averaged, buffers of the first."""
    model = AveragedModel(trained(make, 0))
    for seed in (1, 2):
        model.update_parameters(trained(make, seed))
    return model.module


def federated(make):
    """The mean of whole states: u and v are no unit vectors any more."""
    layers = [trained(make, seed) for seed in range(3)]
    states = [layer.state_dict() for layer in layers]
    layers[0].load_state_dict({key: sum(state[key] for state in states) / 3 for key in states[0]})
    return layers[0]


def weight_alone(make):
    layer = trained(make, 0)
    layer.load_state_dict({"parametrizations.weight.original": raw(trained(make, 1)) * 7}, strict=False)
    return layer


def vectors_of_another_size(make):
    layer = trained(make, 0)
    norm_of(layer)._u.mul_(3)
    return layer


STATES = [averaged_by_torch, federated, weight_alone, vectors_of_another_size]
every_state = pytest.mark.parametrize("state", STATES, ids=[state.__name__ for state in STATES])


def top(layer, weight):
    return np.linalg.svd(numpy_matrix(weight, layer), compute_uv=False)[0]


@every_state
@pytest.mark.parametrize("name", LAYERS)
def test_the_norm_is_one(name, state):
    layer = state(LAYERS[name]).eval()
    before = vectors(layer)
    assert top(layer, layer.weight) == pytest.approx(1, abs=0.011)
    assert sigma(layer).matrix == pytest.approx(1, abs=0.011)
    assert_close(vectors(layer), before, rtol=0, atol=0)  # evaluation writes no buffer
    step(layer, 1.0)
    assert top(layer, layer.weight) == pytest.approx(1, abs=0.011), "and follows the weight"


@every_state
@pytest.mark.parametrize("name", LAYERS)
def test_what_is_baked_is_right(name, state):
    layer = state(LAYERS[name])
    weight = copy.deepcopy(layer).eval().weight
    bake(layer)
    assert_close(layer.weight, weight, rtol=0, atol=0)
    assert top(layer, layer.weight) == pytest.approx(1, abs=0.011)


def test_singular_vectors_of_another_value_are_noticed():
    """Wv and Wᵀu are what they were, and they are exact singular vectors: of the smaller value."""
    layer = spectral_norm(nn.Linear(2, 2)).double()
    with torch.no_grad():
        raw(layer).copy_(torch.diag(torch.tensor([1.0, 2.0])))
        norm_of(layer)._u.copy_(torch.tensor([0.0, 1.0]))
        norm_of(layer)._v.copy_(torch.tensor([0.0, 1.0]))
        assert_close(layer.eval().weight.diagonal(), torch.tensor([0.5, 1.0]).double())
        raw(layer)[0, 0] = 3.0
        assert_close(layer.weight.diagonal(), torch.tensor([1.0, 2 / 3]).double())
    assert_close(layer(torch.eye(2).double()) - layer.bias, layer.weight.T)


def test_vectors_that_belong_are_used_as_they_are():
    """What training and torch computed last, evaluation repeats."""
    layer = trained(LAYERS["conv"], 0)
    for _ in range(100):
        norm_of(layer)._image.zero_()  # as if the weight had changed
        layer.weight  # noqa: B018
    assert_close(layer.eval().weight, layer.train().weight, rtol=0, atol=0)


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_no_square_overflows(scale):
    layer = weight_alone(LAYERS["linear"]).eval()
    with torch.no_grad():
        raw(layer).mul_(scale)
    norm_of(layer).eps = 0.0
    assert top(layer, layer.weight) == pytest.approx(1, abs=0.011)


@pytest.mark.parametrize("value", [0.0, float("nan"), float("inf")])
def test_a_weight_without_a_direction(value):
    layer = trained(LAYERS["linear"], 0).eval()
    with torch.no_grad():
        raw(layer)[0] = value
        if value == 0:
            raw(layer).zero_()
    assert layer.weight.isfinite().all() == (value == 0)
    with torch.no_grad():
        raw(layer).copy_(torch.randn(9, 12))
    assert top(layer, layer.weight) == pytest.approx(1, abs=0.011)


def test_compiled_and_mapped_evaluation_follow_the_weight():
    layer = weight_alone(LAYERS["linear"]).eval()
    x = torch.randn(4, 12)
    torch.compiler.reset()
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    assert_close(compiled(x), layer(x))
    step(layer, 1.0)
    assert_close(compiled(x), layer(x))
    layers = [layer, copy.deepcopy(layer)]
    step(layers[1], 1.0)
    parameters, buffers = torch.func.stack_module_state(layers)
    mapped = torch.func.vmap(lambda p, b: torch.func.functional_call(layers[0], (p, b), (x,)))(parameters, buffers)
    assert_close(mapped, torch.stack([layer(x) for layer in layers]))


def test_the_gradient_is_the_norms_own():
    layer = weight_alone(lambda: nn.Linear(4, 3).double()).eval()
    weight = raw(layer).detach().clone().requires_grad_()
    assert torch.autograd.gradcheck(norm_of(layer), weight, atol=1e-6)


@pytest.mark.parametrize("operator", [False, True])
def test_one_that_was_made_in_inference_is_trained_there(operator):
    """Its vectors are tensors of inference mode, which cannot change outside of it."""
    twin = spectral_norm(nn.Linear(5, 4), operator=operator)
    with torch.inference_mode():
        layer = spectral_norm(nn.Linear(5, 4), operator=operator)
        layer.load_state_dict(twin.state_dict())
    x = torch.randn(2, 5)
    with torch.inference_mode():
        for one in (layer, twin):
            raw(one).data.mul_(3).add_(1)
        for _ in range(2):
            assert_close(layer(x), twin(x))
    assert_close(dict(layer.named_buffers()), dict(twin.named_buffers()))


@pytest.mark.parametrize("operator", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_what_was_computed_in_inference_serves_for_gradients(operator, training):
    torch.manual_seed(0)
    layer = spectral_norm(nn.Linear(5, 4), operator=operator).train(training)
    twin = copy.deepcopy(layer)
    with torch.inference_mode():
        layer(torch.randn(2, 5))
    x = torch.randn(2, 5)
    for one in (layer, twin):
        one(x).square().sum().backward()
    assert_close(raw(layer).grad, raw(twin).grad)
