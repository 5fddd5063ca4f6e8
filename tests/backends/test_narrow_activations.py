"""Activations of bf16: shorter polynomials and quotients, asked for every number that there is."""

import pytest
import torch
from marks import needs_kernels

from normwise.backends import cpu
from normwise.core.activations import ACTIVATIONS

pytestmark = needs_kernels
#: Of what the last of 8 bits stands for: half of it takes the rounding, the rest is the arithmetic's.
SHARE = 0.6
#: Below the smallest normal number of fp16, and of a slope that changes its sign.
LEAST, LEAST_SLOPE = 1e-6, 2e-5


def last_bit(exact):
    """What it stands for in each number rounded to bf16."""
    return torch.ldexp(torch.ones_like(exact), torch.frexp(exact).exponent - 8)


def every_number():
    patterns = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(torch.bfloat16)
    return patterns[patterns.isfinite() & (patterns.abs() < 1e30)].view(1, 1, -1)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_every_number_of_bf16(name):
    x, activation = every_number(), ACTIVATIONS[name]
    zero, one = torch.zeros(1, 1), torch.ones(1, 1)
    y, exact = cpu.apply(x, zero, one, zero, None, activation).double(), activation.function(x.double())
    assert ((y - exact).abs() <= SHARE * last_bit(exact) + LEAST).all()
    slope, _ = cpu.backward_apply(torch.ones_like(x), x, zero, one, zero, None, activation, None, None, None)
    exact = activation.derivative(x.double())
    assert ((slope.double() - exact).abs() <= SHARE * last_bit(exact) + LEAST_SLOPE).all()
