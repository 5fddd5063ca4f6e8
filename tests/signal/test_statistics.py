"""Moments per channel against NumPy, in every layout, type and range; the channel axis through every operation."""

from contextlib import nullcontext
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from normwise import use_backend
from normwise.signal.axes import axis_by_operation, carried_axis, default_axis
from normwise.signal.histogram import BINS, Bins
from normwise.signal.statistics import channel_moments, constant_channels, mean_square, measurable

LAYOUTS = {
    "contiguous": lambda x: x,
    "channels_last": lambda x: x.to(memory_format=torch.channels_last),
    "transposed": lambda x: x.mT.contiguous().mT,
    "strided": lambda x: x.repeat(1, 1, 1, 2)[..., ::2],
    "expanded": lambda x: x[:1].expand_as(x),
}


def expected(x, axis):
    values = np.moveaxis(x.double().numpy(), axis, 0).reshape(x.shape[axis], -1)
    return values.mean(1), values.var(1)


@pytest.mark.parametrize("backend", [nullcontext, partial(use_backend, "reference")], ids=["automatic", "reference"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("axis", [0, 1, 2, 3, -1])
def test_moments(backend, layout, axis):
    x = LAYOUTS[layout](torch.randn(5, 7, 6, 4, dtype=torch.float64) * 3 + 50)
    with backend():
        table, nonfinite = channel_moments(x, axis)
    mean, var = expected(x, axis)
    np.testing.assert_allclose(table.mean[0], mean, rtol=1e-14)
    np.testing.assert_allclose(table.var[0], var, rtol=1e-12)
    assert torch.as_tensor(table.count).unique().item() == x.numel() // x.shape[axis]
    assert nonfinite == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("offset", [0, 1000])
def test_moments_of_narrow_types(dtype, offset):
    x = (torch.randn(16, 3, 40) + offset).to(dtype)
    table, _ = channel_moments(x, 1)
    mean, var = expected(x, 1)
    np.testing.assert_allclose(table.mean[0], mean, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(table.var[0], var, rtol=1e-5)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_far_from_zero(layout):
    """The mean of fp32 values around 1000 to far below their spacing, and with it the variance."""
    x = (torch.randn(16, 3, 20, 20) * 0.01 + 1000).to(memory_format=layout)
    table, _ = channel_moments(x, 1)
    mean, var = expected(x, 1)
    np.testing.assert_allclose(table.mean[0], mean, rtol=0, atol=1e-7)
    np.testing.assert_allclose(table.var[0], var, rtol=1e-6)


@pytest.mark.parametrize("scale", [1e-30, 1e-20, 1e20, 1e30])
def test_moments_outside_of_the_range_of_squares(scale):
    x = torch.randn(16, 3, 40) * scale
    table, nonfinite = channel_moments(x, 1)
    np.testing.assert_allclose(table.var[0], expected(x, 1)[1], rtol=1e-5)
    assert nonfinite == 0


def test_values_that_are_not_finite_are_left_out_and_counted():
    x = torch.randn(8, 4, 6)
    broken = x.clone()
    broken[0, 0, 0], broken[1, 0, 2], broken[:, 2] = float("nan"), float("inf"), float("-inf")
    table, nonfinite = channel_moments(broken, 1)
    assert nonfinite == 2 + 48
    keep = x[:, 0].flatten()[torch.isfinite(broken[:, 0].flatten())].double()
    assert table.var[0, 0].item() == pytest.approx(keep.var(correction=0).item(), rel=1e-6)
    assert table.var[0, 1].item() == pytest.approx(x[:, 1].double().var(correction=0).item(), rel=1e-5)
    assert table.count[0].tolist() == [46, 48, 0, 48]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_constant_channels(dtype):
    """A constant that is no sum of few powers of two has a variance of roundings; a small variance is not constant."""
    x = torch.randn(64, 5, 33).to(dtype)
    x[:, 1], x[:, 2] = 0.1, 0
    x[:, 3] = x[:, 3] * 1e-12
    assert constant_channels(channel_moments(x, 1)[0], dtype) == 2


def test_mean_square():
    x = torch.randn(100) * 1e-30
    assert mean_square(x) == pytest.approx(x.double().square().mean().item(), rel=1e-6)


@pytest.mark.parametrize("scale", [1e-30, 1e-20, 1e25])
def test_mean_square_outside_of_the_range_of_squares(scale):
    """Gradients vanish long before they are 0: their squares are not in fp32."""
    x = torch.randn(5, 7, generator=torch.Generator().manual_seed(0)) * scale
    assert mean_square(x) == pytest.approx(x.double().square().mean().item(), rel=1e-6)


def test_what_has_no_moments():
    assert not measurable(torch.zeros(3, dtype=torch.long))
    assert not measurable(torch.zeros(0, 3))
    assert not measurable(torch.zeros(()))
    assert not measurable(torch.zeros(2, 3).to_sparse())
    assert not measurable(torch.zeros(2, 3, device="meta"))
    assert measurable(torch.zeros(3))


X = torch.randn(2, 6, 4, 4)
CARRIED = {
    "relu": (lambda x: x.relu(), 1),
    "permute": (lambda x: x.permute(0, 2, 3, 1), 3),
    "permute and copy": (lambda x: x.permute(0, 2, 3, 1).permute(2, 3, 0, 1), 1),
    "flatten space": (lambda x: x.flatten(2), 1),
    "tokens": (lambda x: x.flatten(2).transpose(1, 2), 2),
    "flatten all": (lambda x: x.flatten(1), 1),
    "flatten the batch": (lambda x: x.flatten(0, 1), None),
    "pool": (lambda x: x[:, :, ::2, ::2], 1),
    "some channels": (lambda x: x[:, :3], 1),
    "average": (lambda x: x.mean((2, 3)), 1),
    "keepdim": (lambda x: x.mean((2, 3), keepdim=True), 1),
    "one sample": (lambda x: x[0], 0),
    "reshape": (lambda x: x.reshape(2, 6, 16), 1),
    "heads": (lambda x: x.reshape(2, 1, 6, 16), 2),
}


@pytest.mark.parametrize("case", CARRIED)
def test_carried_axis(case):
    make, axis = CARRIED[case]
    assert carried_axis(X, 1, make(X)) == axis


def test_axis_by_operation():
    assert axis_by_operation("conv2d", torch.zeros(2, 3, 4, 4)) == 1
    assert axis_by_operation("conv_transpose1d", torch.zeros(3, 4)) == 0  # without a batch
    assert axis_by_operation("linear", torch.zeros(2, 3, 4, 4)) == 3
    assert axis_by_operation("max_pool3d", torch.zeros(2, 3, 4, 4, 4)) == 1
    assert axis_by_operation("adaptive_avg_pool2d", torch.zeros(2, 3, 4, 4)) == 1
    assert axis_by_operation("relu", torch.zeros(2, 3)) is None
    assert [default_axis(torch.zeros([2] * n)) for n in (1, 2, 3, 4, 5)] == [0, 1, 2, 1, 1]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(-40, 40), st.floats(-1e3, 1e3), st.integers(1, 200)),
        min_size=1,
        max_size=4,
    ),
    st.integers(0, 100),
)
def test_histograms_merge_exactly(parts, seed):
    """The bins of shards, merged, are NumPy's counts of all values in the same bins."""
    generator = np.random.default_rng(seed)
    shards = [(generator.standard_normal(n) + offset) * 2.0**scale for scale, offset, n in parts]
    bins = Bins.of(torch.from_numpy(shards[0]))
    for shard in shards[1:]:
        bins = bins.merge(Bins.of(torch.from_numpy(shard)))
    histogram = bins.histogram()
    values = np.concatenate(shards)
    assert sum(histogram.counts) == len(values)
    assert len(histogram.counts) <= BINS
    assert histogram.counts[0] > 0
    assert histogram.counts[-1] > 0
    places = np.floor(values / histogram.width) - round(histogram.start / histogram.width)
    assert list(histogram.counts) == np.bincount(places.astype(int), minlength=len(histogram.counts)).tolist()


def test_histograms_of_odd_values():
    assert Bins.of(torch.tensor([float("nan"), float("inf")])).histogram().counts == ()
    assert Bins.of(torch.zeros(5)).histogram().counts == (5,)
    constant = Bins.of(torch.full((3,), -7.3, dtype=torch.float64)).histogram()
    assert constant.counts == (3,)
    assert constant.edges[0] <= -7.3 < constant.edges[1]
    both = Bins.of(torch.tensor([float("nan")])).merge(Bins.of(torch.ones(4))).histogram()
    assert both.counts == (4,)
    assert len(Bins.of(torch.randn(10_000)).histogram().counts) > BINS / 4
