"""Rows in plain operations: what a mask, a transform or a device without kernels gets."""

import pytest
import torch
from torch.testing import assert_close

import normwise as nw

WIDTH, EPS = 96, 1e-5


def far_rows(seed=0):
    """Mean 10,000 and deviation 0.1: fp32 rounds such a mean by up to 0.5 % of the deviation."""
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(5, WIDTH, generator=generator, dtype=torch.float64) * 0.1 + 1e4).float()


@pytest.mark.parametrize("kept", [0.7, 1.0])
def test_a_mean_a_hundred_thousand_times_the_deviation_costs_no_digits(kept):
    x = far_rows()
    mask = torch.rand(5, WIDTH, generator=torch.Generator().manual_seed(1)) <= kept
    y = nw.LayerNorm(WIDTH, eps=EPS, elementwise_affine=False)(x, mask=mask)
    # Every x is within a factor of 2 of the mean: the difference is exact, and so is that of its own mean but for a
    # rounding of values of size 1. Then some ten roundings of values up to 4.
    for row, keeps, found in zip(x.double(), mask, y, strict=True):
        members = row[keeps]
        want = (members - members.mean()) / (members.var(correction=0) + EPS).sqrt()
        assert_close(found[keeps].double(), want, rtol=0, atol=10 * 4 * 2**-24)
