"""Data, bounds and normalizations in float64 NumPy, for the tests of rows under a condition and their like."""

import numpy as np
import pytest
import torch
from torch.testing import assert_close

N, L, C, K = 3, 5, 12, 4
#: Half a unit in the last place of the output for the one rounding, and of fp32 for what was computed in it.
TOLERANCE = {
    torch.float64: {"rtol": 1e-12, "atol": 1e-12},
    torch.float32: {"rtol": 1e-5, "atol": 1e-5},
    torch.bfloat16: {"rtol": 2**-8 * 1.01, "atol": 1e-5},
    torch.float16: {"rtol": 2**-11 * 1.01, "atol": 1e-5},
}
DTYPES = list(TOLERANCE)
BY_DTYPE = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def data(*shape, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(shape, generator=generator, dtype=torch.float64) * 1.5 + 0.5).to(dtype)


def exact(t):
    return t.detach().double().numpy()


def assert_is(y, truth):
    assert_close(y.double(), torch.from_numpy(truth), **TOLERANCE[y.dtype])


def layer_norm(x, eps):
    away = x - x.mean(-1, keepdims=True)
    return away / np.sqrt((away**2).mean(-1, keepdims=True) + eps)


def rms_norm(x, eps):
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + eps)


def silu(x):
    return x / (1 + np.exp(-x))


def gradients_agree(call, truth, leaves, tolerance=2e-5):
    """Of a random cotangent, against the derivative of plain fp64 operations."""
    y = call(*leaves)
    cotangent = data(*y.shape, seed=9, dtype=y.dtype)
    found = torch.autograd.grad(y, leaves, cotangent)
    wide = [t.detach().double().requires_grad_() for t in leaves]
    expected = torch.autograd.grad(truth(*wide), wide, cotangent.double())
    for ours, theirs in zip(found, expected, strict=True):
        step = max(tolerance, 1.01 * torch.finfo(ours.dtype).eps / 2)
        size = theirs.abs().max().clamp_min(1)
        assert_close(ours.double() / size, theirs / size, rtol=step, atol=step)
