"""Fused activations against torch's autograd, gains against the published table and closed forms."""

import math

import pytest
import torch
from torch.testing import assert_close

from normwise import ACTIVATIONS
from normwise.core.activations import activation_named, gain

# Brock, De and Smith 2021: their released Monte-Carlo estimates, good to about 0.1 %.
OFFICIAL = {
    "celu": 1.270926833152771,
    "elu": 1.2716004848480225,
    "gelu_tanh": 1.7015043497085571,
    "leaky_relu": 1.70590341091156,
    "relu": 1.7139588594436646,
    "relu6": 1.7131484746932983,
    "selu": 1.0008515119552612,
    "sigmoid": 4.803835391998291,
    "silu": 1.7881293296813965,
    "softsign": 2.338853120803833,
    "softplus": 1.9203323125839233,
    "tanh": 1.5939117670059204,
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_derivative_is_autograds(name):
    activation = ACTIVATIONS[name]
    # Away from the kinks by construction: 0, ±3 and 6 are not on this grid.
    z = torch.linspace(-9.03, 9.01, 401, dtype=torch.float64, requires_grad=True)
    (expected,) = torch.autograd.grad(activation.function(z).sum(), z)
    assert_close(activation.derivative(z.detach()), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_derivative_keeps_the_dtype_and_is_finite_far_out(name, dtype):
    slope = ACTIVATIONS[name].derivative(torch.tensor([-1e4, -50.0, 0.0, 50.0, 1e4], dtype=dtype))
    assert slope.dtype == dtype
    assert torch.isfinite(slope).all()


@pytest.mark.parametrize("name", OFFICIAL)
def test_gain_agrees_with_the_official_estimate(name):
    assert gain(name) == pytest.approx(OFFICIAL[name], rel=2e-3)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_gain_preserves_the_variance_of_samples(name):
    z = torch.randn(2_000_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    # The variance of 2e6 samples has a relative error of about 0.1 to 0.2 %.
    assert (gain(name) * ACTIVATIONS[name].function(z)).var().item() == pytest.approx(1.0, rel=6e-3)


def test_gain_closed_forms():
    assert gain("relu") == pytest.approx(math.sqrt(2 / (1 - 1 / math.pi)), rel=1e-9)
    assert gain("selu") == pytest.approx(1.0, rel=1e-6)
    assert gain("elu") == pytest.approx(1.27084342, rel=1e-8)
    assert gain("softplus") == pytest.approx(1.91912598, rel=1e-8)


def test_unknown_activation_names_the_known_ones():
    with pytest.raises(ValueError, match=r"Unknown activation 'swish'.*relu.*silu"):
        activation_named("swish")
    with pytest.raises(TypeError, match="a name such as 'relu', received ReLU"):
        activation_named(torch.nn.ReLU())
