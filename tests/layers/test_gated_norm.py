"""Gated RMSNorm, both orders, of rows and groups, against float64 NumPy."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close
from transcriptions import BY_DTYPE, C, L, N, assert_is, data, exact, gradients_agree, rms_norm, silu

import normwise as nw
import normwise.functional as nf
from normwise.core.moments import statistics_dtype


def by_groups(x, size, eps):
    return rms_norm(x.reshape(*x.shape[:-1], -1, size), eps).reshape(x.shape)


@BY_DTYPE
@pytest.mark.parametrize("size", [None, 4], ids=["row", "groups"])
@pytest.mark.parametrize("before", [True, False], ids=["norm first", "gate first"])
def test_gated_rms_norm(before, size, dtype, backend):
    layer = nw.GatedRMSNorm(C, group_size=size, norm_before_gate=before).to(statistics_dtype(dtype))
    with torch.no_grad():
        layer.weight.copy_(data(C, seed=1))
    x, z = data(N, L, C, dtype=dtype), data(N, L, C, seed=2, dtype=dtype)
    with backend():
        y = layer(x, z)
    values, gate, weight = exact(x), silu(exact(z)), exact(layer.weight)
    if before:
        truth = by_groups(values, size or C, 1e-5) * weight * gate
    else:
        truth = by_groups(values * gate, size or C, 1e-5) * weight
    assert y.dtype == dtype
    assert_is(y, truth)
    with backend():
        assert_is(layer(x), by_groups(values, size or C, 1e-5) * weight)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("before", [True, False], ids=["norm first", "gate first"])
def test_gradients_of_gated_rms_norm(before, groups, dtype, backend):
    def truth(x, z, w):
        x = x if before else x * F.silu(z)
        y = F.rms_norm(x.unflatten(-1, (groups, -1)), [C // groups], eps=1e-5).flatten(-2) * w
        return y * F.silu(z) if before else y

    def ours(x, z, w):
        return nf.gated_rms_norm(x, z, w, num_groups=groups, norm_before_gate=before)

    leaves = [data(N, L, C, seed=i, dtype=dtype).requires_grad_() for i in range(2)] + [
        data(C, seed=2).float().requires_grad_()
    ]
    with backend():
        gradients_agree(ours, truth, leaves)


def test_a_gated_norm_with_residual_activation_and_mask(backend):
    layer, x, z, h = (
        nw.GatedRMSNorm(C, group_size=6, activation="gelu").double(),
        *(data(N, L, C, seed=i) for i in range(3)),
    )
    mask = torch.rand(N, L, C, generator=torch.Generator().manual_seed(5)) < 0.7
    mask[..., ::6] = True
    parts, valid = (t.reshape(N, L, 2, 6) for t in (exact(x), mask.numpy()))
    power = (np.where(valid, parts, 0) ** 2).sum(-1, keepdims=True) / valid.sum(-1, keepdims=True)
    before = (parts / np.sqrt(power + 1e-5)).reshape(N, L, C) * silu(exact(z)) + exact(h)
    with backend():
        y = layer(x, z, h, mask)
    assert_close(y[mask], F.gelu(torch.from_numpy(before))[mask])


def test_a_gated_norm_says_what_does_not_fit():
    with pytest.raises(
        ValueError, match="12 features do not divide into groups of 5; divisors of 12: 1, 2, 3, 4, 6, 12"
    ):
        nw.GatedRMSNorm(12, group_size=5)
    layer, x = nw.GatedRMSNorm(C), data(N, L, C, dtype=torch.float32)
    with pytest.raises(ValueError, match=r"gate must have the shape of x, \[3, 5, 12\], received \[3, 12\]"):
        layer(x, data(N, C, dtype=torch.float32))
    with pytest.raises(TypeError, match="gate expects a floating tensor"):
        layer(x, torch.ones(N, L, C, dtype=torch.long))


@pytest.mark.parametrize("first", [True, False], ids=["norm first", "gate first"])
def test_a_gate_of_a_narrower_type_is_opened_in_that_of_the_statistics(first):
    x, gate = torch.randn(3, 8, dtype=torch.float64), torch.randn(3, 8)
    y = nf.gated_rms_norm(x, gate, norm_before_gate=first)
    opened = gate.double() * gate.double().sigmoid()
    values = x if first else x * opened
    exact = values * torch.rsqrt(values.square().mean(-1, keepdim=True) + 1e-5) * (opened if first else 1)
    torch.testing.assert_close(y, exact, rtol=1e-13, atol=1e-13)
