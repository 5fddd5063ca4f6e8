"""Positional normalization and the moment shortcut against float64 NumPy."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close
from transcriptions import BY_DTYPE, N, assert_is, data, exact, gradients_agree

import normwise as nw
import normwise.functional as nf


@BY_DTYPE
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["contiguous", "channels_last"])
def test_positional_norm_and_its_moments(layout, dtype, backend):
    x = data(N, 6, 5, 7, dtype=dtype).contiguous(memory_format=layout)
    layer = nw.PositionalNorm2d(6, return_moments=True)
    with backend():
        y, mean, std = layer(x)
    values = exact(x)
    away = values - values.mean(1, keepdims=True)
    deviation = np.sqrt((away**2).sum(1, keepdims=True) / 5 + 1e-5)
    assert_is(y, away / deviation)
    assert_is(mean, values.mean(1, keepdims=True))
    assert_is(std, deviation)
    assert y.is_contiguous(memory_format=layout)
    assert_is(nw.MomentShortcut()(y.double(), mean.double(), std.double()), exact(y) * exact(std) + exact(mean))
    assert_close(nw.PositionalNorm2d(6)(x), y)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_gradients_flow_through_the_moments_and_the_shortcut(dtype, backend):
    def published(x, z):
        mean, std = x.mean(1, keepdim=True), x.var(1, keepdim=True).add(1e-5).sqrt()
        return torch.cat([(x - mean) / std, z * std + mean], 1)

    def ours(x, z):
        y, mean, std = nf.positional_norm(x)
        return torch.cat([y, nf.moment_shortcut(z, mean, std)], 1)

    leaves = [data(N, 6, 5, 7, dtype=dtype).requires_grad_(), data(N, 4, 5, 7, seed=1, dtype=dtype).requires_grad_()]
    with backend():
        gradients_agree(ours, published, leaves, 1e-12 if dtype is torch.float64 else 2e-5)


def test_positional_norm_with_a_residual_far_from_zero_and_under_a_mask():
    x, h = data(N, 6, 5, 7) + 1e4, data(N, 6, 5, 7, seed=1)
    mask = torch.ones(N, 5, 7, dtype=torch.bool)
    mask[0, 0] = False
    spoiled = x.clone()
    spoiled[0, :, 0] = torch.nan
    layer = nw.PositionalNorm2d(6, activation="relu")
    truth = F.relu((x - x.mean(1, keepdim=True)) / (x.var(1, keepdim=True) + 1e-5).sqrt() + h)
    kept = mask.unsqueeze(1).expand_as(x)
    assert_close(layer(spoiled, h, mask)[kept], truth[kept], rtol=1e-9, atol=1e-9)


def test_positional_norm_says_what_does_not_fit():
    with pytest.raises(ValueError, match="num_channels must be at least 2"):
        nw.PositionalNorm2d(1)
    with pytest.raises(ValueError, match="the unbiased variance needs at least 2 channels"):
        nf.positional_norm(data(N, 1, 5))
    with pytest.raises(ValueError, match="the decoder's map must have the size of the encoder's"):
        nf.moment_shortcut(data(N, 4, 5, 7), data(N, 1, 5, 6), data(N, 1, 5, 7))
