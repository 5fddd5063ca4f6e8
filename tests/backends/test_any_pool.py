"""The kernels that measure and normalize in one call, for tensors of any kind, against NumPy in fp64.

The bounds are those of `test_any_tensor`: roundings of the accumulator's type times the size of the terms, and the
output's own.
"""

import hypothesis.strategies as st
import numpy as np
import torch
from any_tensor import (
    DISTANCES,
    DTYPES,
    SIZES,
    SPREADS,
    UNIT,
    assert_within,
    in_numpy,
    map_shapes,
    searched,
    unaligned,
    values,
)
from marks import needs_kernels

from normwise import ACTIVATIONS, Moments
from normwise.backends import cpu
from normwise.core.moments import statistics_dtype

from .test_any_tensor import FUNCTIONS, over_space, tiny

pytestmark = needs_kernels

EPS = 2.0**-10


@st.composite
def parameters(draw, size, dtype):
    """A layer's parameter in its input's dtype or the statistics', or none."""
    kind = draw(st.sampled_from([None, dtype, statistics_dtype(dtype)]))
    return None if kind is None else draw(values((size,), kind))


@st.composite
def cases(draw):
    shape, dtype = draw(map_shapes()), draw(st.sampled_from(DTYPES))
    distance, spread = draw(st.sampled_from(DISTANCES)), draw(st.sampled_from(SPREADS))
    channels, kind = shape[1], statistics_dtype(dtype)
    groups = draw(st.sampled_from([0, *(g for g in range(1, channels + 1) if channels % g == 0)]))
    known = None
    if groups == 0 and draw(st.booleans()):
        mean, root = draw(values((1, channels), kind, distance, spread)), draw(values((1, channels), kind, 0.0, spread))
        known = Moments(mean.double(), root.double().square() + spread**2, 1)
    return {
        "x": draw(values(shape, dtype, distance, spread)),
        "grad_y": draw(values(shape, dtype)),
        "residual": draw(values(shape, dtype)) if draw(st.booleans()) else None,
        "weight": draw(parameters(channels, dtype)),
        "bias": draw(parameters(channels, dtype)),
        "groups": groups,
        "known": known,
        "activation": draw(st.sampled_from(list(FUNCTIONS))),
    }


ALL = (True, False, True, True)


class Standardized:
    """The textbook's formulas, forward and backward; `pooled` says which axes of `split(x)` are one pool."""

    def __init__(self, x, pooled, split, weight, bias, residual, grad_y, activation, known, unit, center=True):
        parts = split(x)
        shape = parts.shape

        def average(t):
            return np.broadcast_to(split(t).mean(pooled, keepdims=True), shape).reshape(x.shape)

        mean, var = known or (average(x) if center else 0 * x, None)
        centered = x - mean
        var = average(centered**2) if var is None else var
        self.root = 1 / np.sqrt(var + EPS)
        normalized = centered * self.root
        # How far the mean may be off, in roundings of a standard deviation: its own in fp64, and that of its sum.
        reach = split(np.abs(centered)).max(pooled, keepdims=True)
        reach = np.broadcast_to(reach, shape).reshape(x.shape)
        off = np.abs(normalized) + self.root * (8 * UNIT[torch.float64] / unit * np.abs(mean) + 8 * reach)
        f, derivative = FUNCTIONS[activation]
        terms = normalized * weight, bias, residual
        z = sum(terms)
        self.kink = activation == "relu" and bool((np.abs(z) < 1e-4).any())
        self.y, self.size = f(z), off * np.abs(weight) + np.abs(bias) + np.abs(residual)
        g = grad_y * derivative(z)
        self.g, self.g_size = g, np.abs(grad_y) * (2 + self.size)
        self.to_weight, self.to_weight_size = g * normalized, self.g_size * off
        gh, gh_size = g * weight, self.g_size * np.abs(weight)
        self.grad_x, self.grad_x_size = gh * self.root, gh_size * self.root
        if known is None:
            through = average(gh) if center else 0
            self.grad_x = self.root * (gh - through - normalized * average(gh * normalized))
            along = off * average(gh_size * np.abs(normalized)) + np.abs(normalized) * average(gh_size * off)
            self.grad_x_size = self.root * (gh_size + average(gh_size) + along)


def over_channels(p, x, otherwise):
    return np.full_like(x, otherwise) if p is None else over_space(in_numpy(p)[None], x) * np.ones_like(x)


def exact_of(case):
    x, groups = in_numpy(case["x"]), case["groups"]
    samples, channels = x.shape[:2]

    def split(t):
        return t.reshape(samples, groups or channels, -1)

    known = case["known"]
    return Standardized(
        x,
        2 if groups else (0, 2),
        split,
        over_channels(case["weight"], x, 1.0),
        over_channels(case["bias"], x, 0.0),
        np.zeros_like(x) if case["residual"] is None else in_numpy(case["residual"]),
        in_numpy(case["grad_y"]),
        case["activation"],
        known and tuple(over_space(in_numpy(t), x) * np.ones_like(x) for t in (known.mean, known.var)),
        UNIT[statistics_dtype(case["x"].dtype)],
    )


@searched(120, 3000, cases())
def test_standardize(case):
    exact = exact_of(case)
    x, activation, known = case["x"], ACTIVATIONS.get(case["activation"]), case["known"]
    parameters = case["groups"], case["weight"], case["bias"], EPS, case["residual"], activation
    y, table = cpu.standardize(x, *parameters, known and known[:2], True)
    assert torch.equal(y, cpu.standardize(x, *parameters, known and known[:2], False)[0])
    unit = 24 * UNIT[statistics_dtype(x.dtype)]
    bound = 1.01 * UNIT[x.dtype] * np.abs(exact.y) + unit * exact.size + tiny(x.dtype)
    assert (y.dtype, y.shape) == (x.dtype, x.shape)
    assert_within(y, exact.y, bound, "y")
    if exact.kink:
        return  # a rounding decides the side
    grads = cpu.standardize_backward(case["grad_y"], x, *parameters, table, known=known is not None, values=True)
    assert_gradients(grads[:1] + grads[2:], exact, x.dtype, (0, *range(2, x.dim())), unit)
    assert (grads[1] is None) == (case["residual"] is None)
    if grads[1] is not None:
        bound = 1.01 * UNIT[x.dtype] * np.abs(exact.g) + unit * exact.g_size + tiny(x.dtype)
        assert_within(grads[1], exact.g, bound, "grad_residual")


def assert_gradients(grads, exact, dtype, axes, unit):
    """Those of x, weight and bias; ``axes`` are those that the parameters do not have."""
    bound = 1.01 * UNIT[dtype] * np.abs(exact.grad_x) + unit * exact.grad_x_size + tiny(dtype)
    assert_within(grads[0], exact.grad_x, bound, "grad_x")
    for name, got, terms, size in (
        ("grad_weight", grads[1], exact.to_weight, exact.to_weight_size),
        ("grad_bias", grads[2], exact.g, exact.g_size),
    ):
        if got is not None:
            want = terms.sum(axes)
            bound = unit * size.sum(axes) + 1.01 * UNIT[got.dtype] * np.abs(want) + tiny(got.dtype)
            assert_within(got.reshape(want.shape), want, bound, name)


@st.composite
def rows(draw):
    """Rows of one to five dimensions, any of them 1: ``x`` starts anywhere, and is contiguous."""
    leading, widths = (draw(st.lists(SIZES, min_size=low, max_size=2)) for low in (0, 1))
    while np.prod(leading + widths) > 6000:
        (leading if leading and leading[-1] > 1 else widths)[-1] = 1
    shape, dtype = (*leading, *widths), draw(st.sampled_from(DTYPES))
    distance, spread = draw(st.sampled_from(DISTANCES)), draw(st.sampled_from(SPREADS))
    dense = st.sampled_from(
        [torch.Tensor.contiguous, lambda t: torch.cat([t.flatten()[:1], t.flatten()])[1:].view(shape)]
    )
    width = int(np.prod(widths))
    return {
        "x": draw(dense)(draw(values(shape, dtype, distance, spread))),
        "grad_y": draw(dense)(draw(values(shape, dtype))),
        "width": width,
        "weight": draw(parameters(width, dtype)),
        "bias": draw(parameters(width, dtype)),
        "center": draw(st.booleans()),
    }


@searched(80, 2000, rows())
def test_rows(case):
    x, width, center = case["x"], case["width"], case["center"]

    def split(t):
        return t.reshape(-1, width)

    unit = UNIT[statistics_dtype(x.dtype)]
    flat, grad_y = split(in_numpy(x)), split(in_numpy(case["grad_y"]))
    weight, bias = (np.broadcast_to(np.float64(v) if p is None else in_numpy(p), flat.shape) for p, v in weights(case))
    exact = Standardized(flat, 1, split, weight, bias, np.zeros_like(flat), grad_y, None, None, unit, center)
    y, tables = cpu.rows(x, width, case["weight"], case["bias"], EPS, center, True)
    assert torch.equal(y, cpu.rows(x, width, case["weight"], case["bias"], EPS, center, False)[0])
    assert_rows(y.view(-1, width), exact, x.dtype)
    grads = cpu.rows_backward(case["grad_y"], x, width, case["weight"], case["bias"], tables, center, ALL)
    assert_gradients((grads[0].view(-1, width), *grads[2:]), exact, x.dtype, 0, 24 * unit)


@st.composite
def columns(draw):
    case = draw(cases())
    dense = draw(st.sampled_from([torch.Tensor.contiguous, unaligned]))
    return {**case, "x": dense(case["x"]), "grad_y": dense(case["grad_y"]), "center": draw(st.booleans())}


@searched(80, 2000, columns())
def test_columns(case):
    x, center = case["x"], case["center"]

    def split(t):
        return t.reshape(*x.shape[:2], -1)

    unit = UNIT[statistics_dtype(x.dtype)]
    values, grad_y = split(in_numpy(x)), split(in_numpy(case["grad_y"]))
    weight, bias = (over_channels(p, values, otherwise) for p, otherwise in weights(case))
    exact = Standardized(values, 1, split, weight, bias, np.zeros_like(values), grad_y, None, None, unit, center)
    y, tables = cpu.columns(x, case["weight"], case["bias"], EPS, center, True)
    assert torch.equal(y, cpu.columns(x, case["weight"], case["bias"], EPS, center, False)[0])
    assert_rows(y.reshape(values.shape), exact, x.dtype)
    grads = cpu.columns_backward(case["grad_y"], x, case["weight"], case["bias"], tables, center, ALL)
    assert_gradients((grads[0].reshape(values.shape), *grads[2:]), exact, x.dtype, (0, 2), 24 * unit)


def weights(case):
    return (case["weight"], 1.0), (case["bias"], 0.0)


def assert_rows(y, exact, dtype):
    unit = 24 * UNIT[statistics_dtype(dtype)]
    bound = 1.01 * UNIT[dtype] * np.abs(exact.y) + unit * exact.size + tiny(dtype)
    assert_within(y, exact.y, bound, "y")
