"""Tensors as people bring them, for hypothesis: any rank, size, stride, dtype and distance from zero; and masks.

`searched` makes two tests of a property: a quick one, and a slow one with many more examples.
"""

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
# One rounding of the type: half a unit in the last place, relative.
UNIT = {torch.float32: 2.0**-24, torch.float64: 2.0**-53, torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11}
#: mean/std of the data, and std: even the largest product is finite in fp16.
DISTANCES = [0.0, 1.0, 30.0, 1000.0]
SPREADS = [2.0**-4, 1.0, 30.0]
#: Odd and even, ones, whole vectors and the values around them.
SIZES = st.sampled_from([1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 33, 65])


def searched(quick, slow, *strategies):
    """A test that looks for a counterexample among ``quick`` examples, and one marked slow among ``slow``."""

    def decorate(check):
        @pytest.mark.parametrize("examples", [quick, pytest.param(slow, marks=pytest.mark.slow)])
        def test(examples):
            settings(max_examples=examples)(given(*strategies)(check))()

        test.__name__, test.__doc__, test.__module__ = check.__name__, check.__doc__, check.__module__
        return test

    return decorate


def unaligned(t):
    """A contiguous copy that starts one value behind where its memory does."""
    return torch.cat([t.flatten()[:1], t.flatten()])[1:].view(t.shape)


def _channels_last(t):
    return t.movedim(1, -1).contiguous().movedim(-1, 1) if t.dim() > 2 else t.contiguous()


def _unaligned_channels_last(t):
    return unaligned(t.movedim(1, -1)).movedim(-1, 1) if t.dim() > 2 else unaligned(t)


def _turned(t):
    """All dimensions in memory the other way round."""
    return t.permute(*reversed(range(t.dim()))).contiguous().permute(*reversed(range(t.dim())))


def _swapped(t):
    return t.transpose(0, -1).contiguous().transpose(0, -1)


def _stepped(t):
    """Every second value of a tensor whose others are NaN."""
    wide = t.new_full([2 * size for size in t.shape], torch.nan)
    step = (slice(1, None, 2),) * t.dim()
    wide[step] = t
    return wide[step]


def _window(t):
    """The middle of a tensor that is NaN around it."""
    wide = t.new_full([size + 2 for size in t.shape], torch.nan)
    middle = (slice(1, -1),) * t.dim()
    wide[middle] = t
    return wide[middle]


def _window_of_channels_last(t):
    return _window(t) if t.dim() < 3 else _window(t.movedim(1, -1)).movedim(-1, 1)


def _any_stride_of_ones(t):
    """A dimension of size 1 may have any stride; torch calls the tensor contiguous."""
    t = t.contiguous()
    return t.as_strided(t.shape, [7 if size == 1 else stride for size, stride in zip(t.shape, t.stride(), strict=True)])


def _expanded(dim):
    """Stride 0: the same values all along a dimension."""

    def expand(t):
        if t.dim() == 0:
            return t
        at = dim % t.dim()
        return t.narrow(at, 0, min(1, t.shape[at])).expand_as(t)

    return expand


LAYOUTS = {
    "contiguous": torch.Tensor.contiguous,
    "unaligned": unaligned,
    "channels_last": _channels_last,
    "unaligned channels_last": _unaligned_channels_last,
    "turned": _turned,
    "swapped": _swapped,
    "stepped": _stepped,
    "window": _window,
    "window of channels_last": _window_of_channels_last,
    "any stride of ones": _any_stride_of_ones,
    "expanded samples": _expanded(0),
    "expanded positions": _expanded(-1),
}


@st.composite
def map_shapes(draw, most=6000):
    """``[N, C, *space]`` of two to five dimensions; any of them may be 1."""
    sizes = [draw(st.integers(1, 4)), draw(SIZES)]
    for _ in range(draw(st.integers(0, 3))):
        room = max(1, most // int(np.prod(sizes)))
        sizes.append(min(draw(SIZES), room))
    return tuple(sizes)


@st.composite
def values(draw, shape, dtype, distance=0.0, spread=1.0):
    """A tensor of that shape in any layout; its numbers are those of a normal distribution."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**16)))
    numbers = torch.randn(shape, generator=generator, dtype=torch.float64)
    return LAYOUTS[draw(st.sampled_from(list(LAYOUTS)))]((numbers * spread + distance * spread).to(dtype))


@st.composite
def masks(draw, shape):
    """A mask ``[N, 1, *space]``, none, or one that keeps nothing or everything."""
    kept = draw(st.sampled_from([None, 0.0, 0.3, 0.8, 1.0]))
    if kept is None:
        return None
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**16)))
    mask = torch.rand(shape[0], 1, *shape[2:], generator=generator) < kept
    return LAYOUTS[draw(st.sampled_from(["contiguous", "unaligned", "turned", "swapped"]))](mask)


def in_numpy(t):
    """The numbers that the kernel was given, in fp64; None stays None."""
    return None if t is None else t.detach().double().numpy()


def assert_within(got, want, bound, what=""):
    """Every number within its own bound, an array of the same shape."""
    error = np.abs(got.detach().double().numpy() - want)
    bad = ~(error <= bound)
    if bad.any():
        at = np.unravel_index(np.argmax(np.where(bad, error - bound, -np.inf)), bad.shape)
        bound = np.broadcast_to(bound, bad.shape)
        raise AssertionError(
            f"{what}{list(map(int, at))}: error {error[at]:.3g} beyond {bound[at]:.3g}, true {want[at]:.6g}"
        )
