"""The four kernels over ``[N, C, *space]`` for tensors of any kind, against NumPy in fp64 on the same values.

Each error has a bound that follows from the arithmetic: some roundings of the type that sums are accumulated in, times
the size of the terms, and one rounding of the output.
"""

import hypothesis.strategies as st
import numpy as np
import torch
from any_tensor import (
    DISTANCES,
    DTYPES,
    SPREADS,
    UNIT,
    assert_within,
    in_numpy,
    map_shapes,
    masks,
    searched,
    values,
)
from marks import needs_kernels

from normwise import ACTIVATIONS
from normwise.backends import cpu, reference
from normwise.core.moments import statistics_dtype

pytestmark = needs_kernels

BACKENDS = [cpu, reference]
#: Written out here: f and f' as the textbooks have them.
FUNCTIONS = {
    None: (lambda z: z, np.ones_like),
    "relu": (lambda z: np.maximum(z, 0), lambda z: (z > 0).astype(z.dtype)),
    "tanh": (np.tanh, lambda z: 1 - np.tanh(z) ** 2),
    "silu": (lambda z: z / (1 + np.exp(-z)), lambda z: (1 + z / (1 + np.exp(z))) / (1 + np.exp(-z))),
}


def over_space(table, x):
    return table.reshape(table.shape + (1,) * (x.ndim - 2))


@st.composite
def cases(draw):
    shape, dtype = draw(map_shapes()), draw(st.sampled_from(DTYPES))
    distance, spread = draw(st.sampled_from(DISTANCES)), draw(st.sampled_from(SPREADS))
    kind = statistics_dtype(dtype)

    def table(around=0.0, size=1.0):
        at = draw(st.sampled_from([shape[:2], (1, shape[1]), (shape[0], 1)]))
        return draw(values(at, kind, around / size, size)).expand(shape[:2])

    return {
        "x": draw(values(shape, dtype, distance, spread)),
        "grad_y": draw(values(shape, dtype)),
        "residual": draw(values(shape, dtype)) if draw(st.booleans()) else None,
        "mean": table(distance * spread, spread),
        "scale": table(size=1 / spread),
        "shift": table(),
        "slope": table(size=1 / spread),
        "offset": table(),
        "mask": draw(masks(shape)),
        "activation": draw(st.sampled_from(list(FUNCTIONS))),
    }


class Exact:
    """What the kernels compute, term by term, in fp64."""

    def __init__(self, case):
        x, names = in_numpy(case["x"]), ("mean", "scale", "shift", "slope", "offset")
        mean, self.scale, shift, slope, offset = (over_space(in_numpy(case[name]), x) for name in names)
        residual = 0 if case["residual"] is None else in_numpy(case["residual"])
        self.centered = x - mean
        terms = self.centered * self.scale, shift, residual
        f, self.derivative = FUNCTIONS[case["activation"]]
        z = sum(terms)
        self.kink = (np.abs(z) < 1e-4) & (case["activation"] == "relu")
        self.size = sum(map(np.abs, terms))
        self.y = f(z)
        self.grad_y = in_numpy(case["grad_y"])
        self.g = self.grad_y * self.derivative(z)
        self.kept = np.broadcast_to(True if case["mask"] is None else case["mask"].numpy(), x.shape)
        self.through = np.where(self.kept, self.centered * slope + offset, 0)
        self.through_size = np.abs(self.centered * slope) + np.abs(offset)
        self.space = tuple(range(2, x.ndim))
        # Of g: the derivative is rounded, and changes by no more than |z|'s rounding.
        self.g_size = np.abs(self.grad_y) * (2 + self.size)


def call(kernel, case, *names):
    activation = case["activation"]
    named = {**case, "activation": None if activation is None else ACTIVATIONS[activation]}
    return kernel(*(named[name] for name in names))


@searched(80, 2000, cases(), st.sampled_from(BACKENDS))
def test_moments(case, backend):
    x, kind = in_numpy(case["x"]), statistics_dtype(case["x"].dtype)
    found = call(backend.moments, case, "x", "mask")
    kept = np.broadcast_to(True if case["mask"] is None else case["mask"].numpy(), x.shape)
    space = tuple(range(2, x.ndim))
    count = kept.sum(space)
    many = np.maximum(count, 1)
    pilot = x[(..., *(slice(0, 1),) * len(space))]  # without it the oracle would round as much as the kernels
    mean = np.where(kept, x - pilot, 0).sum(space) / many + np.where(count, pilot.reshape(count.shape), 0)
    off = np.where(kept, x - over_space(mean, x), 0)
    var, reach = (off**2).sum(space) / many, np.abs(off).max(space)
    # The sums are of differences to a value nearby, or corrected: the mean itself costs digits in fp64 alone.
    loss = 16 * UNIT[kind] * reach + 8 * UNIT[torch.float64] * np.abs(mean)
    assert_within(found.mean.expand(x.shape[:2]), mean, loss, "mean")
    assert_within(found.var.expand(x.shape[:2]), var, 4 * loss * reach + loss**2, "var")
    assert np.array_equal(np.broadcast_to(np.asarray(found.count), count.shape), count)


@searched(80, 2000, cases(), st.sampled_from(BACKENDS))
def test_apply(case, backend):
    y, exact = call(backend.apply, case, "x", "mean", "scale", "shift", "residual", "activation"), Exact(case)
    assert (y.dtype, y.shape) == (case["x"].dtype, case["x"].shape)
    kind = statistics_dtype(y.dtype)
    assert_within(y, exact.y, 1.01 * UNIT[y.dtype] * np.abs(exact.y) + 12 * UNIT[kind] * exact.size + tiny(y.dtype))


@searched(80, 2000, cases(), st.sampled_from(BACKENDS))
def test_backward_reduce(case, backend):
    exact = Exact(case)
    if exact.kink.any():
        return  # a rounding decides the side
    names = ("grad_y", "x", "mean", "scale", "shift", "residual", "activation")
    found = call(backend.backward_reduce, case, *names)
    unit = 16 * UNIT[statistics_dtype(case["x"].dtype)]
    assert_within(found[0], exact.g.sum(exact.space), unit * exact.g_size.sum(exact.space), "Σ g ")
    products = exact.g * exact.centered
    size = exact.g_size * np.abs(exact.centered)
    assert_within(found[1], products.sum(exact.space), unit * size.sum(exact.space), "Σ g·(x - mean) ")


@searched(80, 2000, cases(), st.sampled_from(BACKENDS), st.booleans())
def test_backward_apply(case, backend, measured):
    exact = Exact(case)
    if exact.kink.any():
        return
    case = case if measured else {**case, "slope": None, "offset": None}
    names = ("grad_y", "x", "mean", "scale", "shift", "residual", "activation", "slope", "offset", "mask")
    grad_x, grad_residual = call(backend.backward_apply, case, *names)
    dtype = case["x"].dtype
    unit = 12 * UNIT[statistics_dtype(dtype)]
    want = exact.g * exact.scale + (exact.through if measured else 0)
    size = exact.g_size * np.abs(exact.scale) + (exact.through_size if measured else 0)
    assert (grad_x.dtype, grad_x.shape) == (dtype, case["x"].shape)
    assert_within(grad_x, want, 1.01 * UNIT[dtype] * np.abs(want) + unit * size + tiny(dtype), "grad_x")
    assert (grad_residual is None) == (case["residual"] is None)
    if grad_residual is not None:
        bound = 1.01 * UNIT[dtype] * np.abs(exact.g) + unit * exact.g_size + tiny(dtype)
        assert_within(grad_residual, exact.g, bound, "grad_residual")


def tiny(dtype):
    """The unit of subnormal numbers, which have no relative rounding."""
    return 2.0**-24 if dtype is torch.float16 else 1e-30
