"""The table and its pools against NumPy on the raw values."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from normwise import Moments

SHAPES = [(4, 6), (4, 6, 5), (3, 6, 4, 7), (2, 6, 3, 2, 5), (1, 6, 1, 1), (5, 6, 1)]


def values(shape, *, mean=0.0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(len(shape) * 101 + shape[0])
    return (torch.randn(shape, generator=generator, dtype=torch.float64) + mean).to(dtype)


def planes(x):
    """[N, C, S] float64."""
    x = x.double().numpy()
    return x.reshape(*x.shape[:2], -1)


def reduced(x, axes):
    p = planes(x)
    return p.mean(axes, keepdims=True), p.var(axes, keepdims=True)


def assert_moments(table, expected, shape):
    for got, want in zip((table.mean, table.var), expected, strict=True):
        assert got.shape == shape
        np.testing.assert_allclose(got.numpy(), want.reshape(shape), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("shape", SHAPES)
def test_table_and_pools_equal_numpy_over_the_raw_values(shape):
    x = values(shape)
    n, c = shape[:2]
    table = Moments.of(x)
    assert_moments(table, reduced(x, (2,)), (n, c))
    assert_moments(table.over_batch(), reduced(x, (0, 2)), (1, c))
    assert_moments(table.over_channels(), reduced(x, (1, 2)), (n, 1))
    space = int(np.prod(shape[2:]))
    assert (table.count, table.over_batch().count, table.over_channels().count) == (space, space * n, space * c)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("groups", [1, 2, 3, 6])
def test_groups_are_neighbouring_channels(shape, groups):
    x = values(shape)
    n, c = shape[:2]
    p = planes(x).reshape(n, groups, -1)
    expected = [np.repeat(s[:, :, None], c // groups, axis=2) for s in (p.mean(2), p.var(2))]
    assert_moments(Moments.of(x).over_groups(groups), expected, (n, c))


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 7, 9])
def test_chunks_with_a_smaller_tail(size):
    x = values((7, 3, 5))
    table = Moments.of(x).over_chunks(size)
    for start in range(0, 7, size):
        p = planes(x)[start : start + size]
        rows = slice(start, start + len(p))
        np.testing.assert_allclose(table.mean[rows], np.broadcast_to(p.mean((0, 2)), (len(p), 3)), rtol=1e-12)
        np.testing.assert_allclose(table.var[rows], np.broadcast_to(p.var((0, 2)), (len(p), 3)), rtol=1e-12)
        count = table.count[rows] if isinstance(table.count, torch.Tensor) else table.count
        assert torch.as_tensor(count).eq(5 * len(p)).all()


@settings(max_examples=60, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 5), st.integers(1, 5), st.integers(1, 6)),
    keep=st.floats(0.0, 1.0),
    seed=st.integers(0, 10_000),
)
def test_masked_pools_are_those_of_the_kept_values(shape, keep, seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=generator, dtype=torch.float64) + 3
    mask = torch.rand(shape[0], 1, shape[2], generator=generator) < keep
    poisoned = torch.where(mask, x, torch.nan)
    table = Moments.of(poisoned, mask)
    kept = mask.expand_as(x)
    for pooled, axis in ((table, None), (table.over_batch(), 0), (table.over_channels(), 1)):
        for i in range(pooled.mean.shape[0]):
            for j in range(pooled.mean.shape[1]):
                index = {None: (i, j), 0: (slice(None), j), 1: (i,)}[axis]
                taken = x[index][kept[index]].numpy()
                count = pooled.count.expand_as(pooled.mean)[i, j]
                assert count == taken.size
                expected = (taken.mean(), taken.var()) if taken.size else (0.0, 0.0)
                np.testing.assert_allclose((pooled.mean[i, j], pooled.var[i, j]), expected, rtol=1e-11, atol=1e-12)


@settings(max_examples=40, deadline=None)
@given(cuts=st.lists(st.integers(0, 9), max_size=4), seed=st.integers(0, 1000))
def test_merging_any_split_of_the_batch_gives_the_whole(cuts, seed):
    x = torch.randn(9, 3, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    edges = [0, *sorted(cuts), 9]
    tables = [Moments.of(x[a:b]).over_batch() for a, b in pairwise(edges)]
    merged = tables[0]
    for table in tables[1:]:
        merged = merged.merge(table)
    whole = Moments.of(x).over_batch()
    assert_close(merged.mean, whole.mean, rtol=1e-12, atol=1e-13)
    assert_close(merged.var, whole.var, rtol=1e-12, atol=1e-13)
    assert torch.as_tensor(merged.count).eq(36).all()


def test_unbiased_variance():
    x = values((5, 3, 4))
    np.testing.assert_allclose(Moments.of(x).unbiased_var(), planes(x).var(2, ddof=1), rtol=1e-12)
    mask = torch.ones(5, 1, 4, dtype=torch.bool)
    mask[0, 0, 1:] = False
    unbiased = Moments.of(x, mask).unbiased_var()
    np.testing.assert_allclose(unbiased[1:], planes(x).var(2, ddof=1)[1:], rtol=1e-12)
    assert unbiased[0].eq(0).all()


@pytest.mark.parametrize("shape", [(0, 3, 4), (2, 3, 0), (0, 3)])
def test_nothing_to_measure_has_count_zero_and_finite_moments(shape):
    table = Moments.of(torch.zeros(shape))
    for pooled in (table, table.over_batch(), table.over_channels()):
        assert torch.isfinite(pooled.mean).all()
        assert torch.isfinite(pooled.var).all()
    assert torch.as_tensor(table.over_batch().count).eq(0).all()


def test_offset_data_does_not_cancel():
    # mean/std = 1e5 in fp32: E[x²] − E[x]² would lose every digit of the variance.
    x = values((8, 4, 100), mean=1e5).float()
    var = planes(x).var((0, 2))
    np.testing.assert_allclose(Moments.of(x).over_batch().var[0], var, rtol=1e-6)
    naive = x.square().mean((0, 2)) - x.mean((0, 2)).square()
    assert np.abs(naive.numpy() - var).max() > 0.1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_the_table_is_fp64_and_exact_for_the_values_given(dtype):
    x = values((3, 2, 50), mean=30, dtype=dtype)
    table = Moments.of(x)
    assert (table.mean.dtype, table.var.dtype) == (torch.float64, torch.float64)
    # The sums are in fp32 around a mean that is exact to the rounding of the small rest.
    rtol = 1e-13 if dtype == torch.float64 else 1e-6
    np.testing.assert_allclose(table.mean, planes(x).mean(2), rtol=min(rtol, 1e-8))
    np.testing.assert_allclose(table.var, planes(x).var(2), rtol=rtol)


def test_fp16_sums_do_not_overflow():
    x = torch.full((2, 1, 40_000), 200.0, dtype=torch.float16)
    assert Moments.of(x).mean.eq(200).all()
