"""Weights stored as their distance from 1, in rows and pixels."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.testing import assert_close
from transcriptions import BY_DTYPE, C, L, N, assert_is, data, exact, layer_norm, rms_norm

import normwise as nw
import normwise.functional as nf

ZERO = {
    "layer": (lambda **o: nw.LayerNorm(C, **o), lambda x: layer_norm(x, 1e-5)),
    "rms": (lambda **o: nw.RMSNorm(C, eps=1e-6, **o), lambda x: rms_norm(x, 1e-6)),
}


@BY_DTYPE
@pytest.mark.parametrize("name", ZERO)
def test_a_zero_centered_weight_is_what_is_added_to_1_before_anything_is_rounded(name, dtype, backend):
    make, truth = ZERO[name]
    layer = make(zero_centered=True).to(dtype)
    with torch.no_grad():
        layer.weight.copy_(data(C, seed=1) / 256)  # below the steps of 1 in bf16
    x = data(N, L, C, dtype=dtype)
    with backend():
        y = layer(x)
    assert_is(y, truth(exact(x)) * (1 + exact(layer.weight)))


@pytest.mark.parametrize("make", [nw.LayerNorm, nw.RMSNorm, nw.LayerNorm2d, nw.RMSNorm2d])
def test_a_zero_centered_layer_begins_as_the_other_and_its_gradients_are_the_others(make, backend):
    ours, plain = make(C, zero_centered=True), make(C)
    assert ours.weight.count_nonzero() == 0
    nn.init.ones_(ours.weight)
    ours.reset_parameters()
    assert ours.weight.count_nonzero() == 0
    x, cotangent = data(N, C, C, dtype=torch.float32), data(N, C, C, seed=2, dtype=torch.float32)
    grads = []
    with backend():
        for layer in (ours, plain):
            grads.append(torch.autograd.grad(layer(x.requires_grad_()), [x, *layer.parameters()], cotangent))
    for one, other in zip(*grads, strict=True):
        assert_close(one, other)
    assert "zero_centered=True" in repr(ours)


@pytest.mark.parametrize(
    ("function", "shape"),
    [(nf.layer_norm, (C,)), (nf.rms_norm, (C,)), (nf.layer_norm2d, None), (nf.rms_norm2d, None)],
)
def test_zero_centered_functions(function, shape):
    x, w = data(N, C, C), data(C, seed=1)
    given = () if shape is None else (shape,)
    assert_close(function(x, *given, w, zero_centered=True), function(x, *given, 1 + w))


@pytest.mark.parametrize("function", [nf.add_layer_norm, nf.add_rms_norm])
def test_zero_centered_functions_of_sums(function):
    x, w = data(N, L, C), data(C, seed=1)
    for ours, theirs in zip(function(x, x, C, w, zero_centered=True), function(x, x, C, 1 + w), strict=True):
        assert_close(ours, theirs)


def test_a_zero_centered_layer_with_the_sum_first_and_an_activation():
    x, h, w = data(N, L, C), data(N, L, C, seed=3), data(C, seed=1)
    first, behind = (
        nw.RMSNorm(C, add_first=True, zero_centered=True),
        nw.RMSNorm(C, activation="gelu", zero_centered=True),
    )
    for layer in (first.double(), behind.double()):
        layer.load_state_dict({"weight": w})
    y, total = first(x, h)
    assert_close(total, x + h)
    assert_close(y, F.rms_norm(x + h, [C], 1 + w, torch.finfo(torch.float64).eps))
    assert_close(behind(x, h), F.gelu(F.rms_norm(x, [C], 1 + w, torch.finfo(torch.float64).eps) + h))


def test_a_zero_centered_layer_says_what_it_cannot_be():
    with pytest.raises(ValueError, match="with elementwise_affine=False there is none; leave one of the two out"):
        nw.LayerNorm(C, elementwise_affine=False, zero_centered=True)
    with pytest.raises(TypeError, match="zero_centered must be True or False, received 'yes'"):
        nw.RMSNorm(C, zero_centered="yes")
    layer = nw.RMSNorm(C, zero_centered=True)
    layer.weight = nn.Parameter(torch.zeros(1))
    with pytest.raises(ValueError, match=r"RMSNorm: weight must be \[12\]"):
        layer(data(N, C, dtype=torch.float32))


def test_torchs_own_transformer_does_not_take_a_zero_centered_weight_for_its_gain():
    """Its fast path reads the weights of two layer norms."""
    block = nn.TransformerEncoderLayer(C, 2, 16, batch_first=True, dropout=0.0).eval()
    block.norm1, block.norm2 = nw.LayerNorm(C, zero_centered=True), nw.LayerNorm(C, zero_centered=True)
    x = data(N, L, C, dtype=torch.float32)
    with torch.no_grad():
        assert_close(block.eval()(x), block.train()(x))


def test_weight_decay_leads_a_zero_centered_norm_to_the_identity():
    net = nn.Sequential(nw.RMSNorm(C, zero_centered=True), nw.LayerNorm(C))
    decayed, *_ = nw.param_groups(net, 0.1)
    assert decayed["weight_decay"] == 0.1
    assert [id(p) for p in decayed["params"]] == [id(net[0].weight)]
