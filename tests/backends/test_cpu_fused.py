"""Standardization in one kernel against the general path in fp64: output, every gradient, and the moments."""

import math
from functools import partial

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from marks import needs_kernels
from standardizing import by_running, over_batch, over_groups
from torch.testing import assert_close

import normwise as nw
from normwise import ACTIVATIONS, Moments, normalize_and_measure, use_backend
from normwise.core import formulas

from .test_cpu_kernels import DTYPES, ROUNDING, threads

pytestmark = needs_kernels

EPS = 1e-3
LAYOUTS = [torch.contiguous_format, torch.channels_last]


def seeded(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def general(x, groups, weight, bias, activation, residual, known):
    """The specification: the formula on the reference backend's table."""
    if known is not None:
        formula = partial(formulas.standardized, eps=EPS)
    elif groups:
        formula = partial(formulas.group_norm, groups=groups, eps=EPS)
    else:
        formula = partial(formulas.batch_norm, eps=EPS)
    options = {"activation": activation, "residual": residual, "moments": known}
    with use_backend("reference"):
        return normalize_and_measure(x, formula, weight, bias, **options)[0]


def kernels(x, groups, weight, bias, activation, residual, known):
    options = {"activation": activation, "residual": residual}
    with use_backend("cpu"):
        if known is not None:
            running = nw.core.running.RunningStatistics(known.mean[0], known.var[0], None, 0.1)
            return by_running(x, running, weight, bias, EPS, **options)
        if groups:
            return over_groups(x, groups, weight, bias, EPS, **options)
        return over_batch(x, weight, bias, EPS, **options)[0]


def results(function, case, dtype):
    leaves = {k: None if t is None else t.to(dtype).requires_grad_() for k, t in case["leaves"].items()}
    y = function(
        leaves["x"],
        case["groups"],
        leaves["weight"],
        leaves["bias"],
        case["activation"],
        leaves["residual"],
        case["known"],
    )
    wanted = {k: t for k, t in leaves.items() if t is not None}
    grads = torch.autograd.grad(y, list(wanted.values()), case["grad_y"].to(dtype))
    return {"y": y.detach(), **dict(zip(wanted, grads, strict=True))}


def compare(case):
    dtype = case["leaves"]["x"].dtype
    got, want = results(kernels, case, dtype), results(general, case, torch.float64)
    for name, expected in want.items():
        assert got[name].dtype == dtype
        size = max(expected.abs().max().item(), 1.0)
        assert_close(
            got[name].double() / size,
            expected / size,
            rtol=0,
            atol=8 * ROUNDING[dtype],
            msg=lambda m, n=name: f"{n}: {m}",
        )
    assert got["y"].stride() == got["x"].stride() == case["leaves"]["x"].stride()


@st.composite
def cases(draw):
    size = st.sampled_from([1, 2, 3, 5, 8, 16, 17, 31])
    groups, per_group = draw(size), draw(size)
    rank = draw(st.integers(0, 3))
    shape = (draw(st.integers(1, 4)), groups * per_group, *(draw(st.integers(1, 7)) for _ in range(rank)))
    over_batch = draw(st.booleans())
    pooled = shape[0] * math.prod(shape[2:]) if over_batch else per_group * math.prod(shape[2:])
    dtype, seed = draw(st.sampled_from(DTYPES)), draw(st.integers(0, 1000))
    last = draw(st.booleans())

    def big(seed):
        t = seeded(*shape, seed=seed, dtype=dtype) + 0.25
        return t.movedim(1, -1).contiguous().movedim(-1, 1) if last and rank else t

    known = None
    if over_batch and (draw(st.booleans()) or pooled == 1):
        known = Moments(seeded(1, shape[1], seed=7), seeded(1, shape[1], seed=8).square() + 0.1, 1)
    elif pooled == 1:
        groups = 1
    return {
        "leaves": {
            "x": big(seed),
            "weight": seeded(shape[1], seed=1, dtype=dtype) if draw(st.booleans()) else None,
            "bias": seeded(shape[1], seed=2, dtype=dtype) if draw(st.booleans()) else None,
            "residual": big(seed + 1) if draw(st.booleans()) else None,
        },
        "grad_y": big(seed + 2),
        # Smooth ones: where a derivative jumps, a rounding decides the side, and that is no error.
        "activation": draw(st.sampled_from([None, "silu", "gelu", "tanh", "mish"])),
        "groups": 0 if over_batch else groups,
        "known": known,
    }


@settings(max_examples=150, deadline=None)
@given(cases())
def test_output_and_gradients(case):
    compare(case)


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("groups", [0, 1, 4, 12])
@pytest.mark.parametrize("shape", [(2, 12, 130, 131), (6, 12, 60, 61), (1, 12, 200, 201), (40, 12, 13, 13)])
def test_large_tensors_in_tiles_and_in_passes(shape, groups, layout, count):
    """Shapes on both sides of every decision: tiles that fit the cache or not, more or fewer than the threads."""
    case = {
        "leaves": {
            "x": seeded(*shape, dtype=torch.float32).to(memory_format=layout),
            "weight": seeded(12, seed=1, dtype=torch.float32),
            "bias": seeded(12, seed=2, dtype=torch.float32),
            "residual": None,
        },
        "grad_y": seeded(*shape, seed=3, dtype=torch.float32).to(memory_format=layout),
        "activation": "silu",
        "groups": groups,
        "known": None,
    }
    with threads(count):
        compare(case)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("groups", "residual"), [(4, False), ("known", True)])
@pytest.mark.parametrize("shape", [(4, 32, 184, 184), (4, 36, 173, 175)])
def test_results_that_go_past_the_caches(shape, groups, residual, layout):
    """Above 16 MB, where every row of the result is aligned to vectors; of the second shape none is."""

    def big(seed):
        return seeded(*shape, seed=seed, dtype=torch.float32).to(memory_format=layout)

    channels = shape[1]
    known = Moments(seeded(1, channels, seed=7), seeded(1, channels, seed=8).square() + 0.1, 1)
    leaves = {"x": big(0), "weight": seeded(channels, seed=1).float(), "bias": None}
    leaves["residual"] = big(2) if residual else None
    case = {"leaves": leaves, "grad_y": big(3), "activation": None}
    compare(case | {"groups": 0, "known": known} if groups == "known" else case | {"groups": groups, "known": None})


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("groups", [0, 1, 4, 16])
def test_the_same_bits_for_the_same_threads(layout, groups):
    x, grad_y = (seeded(5, 16, 50, 51, seed=s, dtype=torch.float32).to(memory_format=layout) for s in (0, 1))
    leaves = {"x": x, "weight": torch.ones(16), "bias": torch.zeros(16), "residual": None}
    case = {"leaves": leaves, "grad_y": grad_y, "activation": "relu", "groups": groups, "known": None}
    with threads(2):
        one, two = results(kernels, case, torch.float32), results(kernels, case, torch.float32)
    assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("groups", [0, 1, 4])
@pytest.mark.parametrize("offset", [1e3, 1e4])
def test_data_far_from_zero_costs_no_digits(offset, groups, layout):
    x = (seeded(4, 4, 16, 16) + offset).float().to(memory_format=layout)
    leaves = {"x": x, "weight": seeded(4, seed=1).float(), "bias": None, "residual": None}
    grad_y = seeded(4, 4, 16, 16, seed=9).float()
    case = {"leaves": leaves, "grad_y": grad_y, "activation": None, "groups": groups, "known": None}
    got, want = results(kernels, case, torch.float32), results(general, case, torch.float64)
    for name in want:
        error = (got[name].double() - want[name]).square().mean().sqrt()
        assert error <= 1e-6 * want[name].square().mean().sqrt(), name


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_moments_are_those_of_the_batch(layout):
    x = seeded(6, 5, 20, 21, dtype=torch.float32).to(memory_format=layout)
    with use_backend("cpu"):
        _, table = over_batch(x, None, None, EPS)
    assert table.mean.shape == table.var.shape == (1, 5)
    assert table.count == 6 * 20 * 21
    assert_close(table.mean[0], x.double().mean((0, 2, 3)), rtol=0, atol=1e-7)
    assert_close(table.var[0], x.double().var((0, 2, 3), correction=0), rtol=1e-6, atol=0)


@pytest.mark.parametrize("groups", [0, 2])
def test_first_and_second_derivatives_by_finite_differences(groups):
    leaves = [seeded(3, 4, 5), seeded(4, seed=1), seeded(4, seed=2), seeded(3, 4, 5, seed=3)]

    def call(x, weight, bias, residual):
        return kernels(x, groups, weight, bias, "tanh", residual, None)

    leaves = [t.requires_grad_() for t in leaves]
    assert torch.autograd.gradcheck(call, leaves)
    assert torch.autograd.gradgradcheck(call, leaves)


def test_only_the_wanted_gradients():
    x, weight = seeded(2, 4, 5), seeded(4, seed=1).requires_grad_()
    y = kernels(x, 2, weight, None, None, None, None)
    expected = general(x, 2, weight, None, None, None, None)
    cotangent = seeded(2, 4, 5, seed=9)
    assert_close(torch.autograd.grad(y, weight, cotangent), torch.autograd.grad(expected, weight, cotangent))
    assert not kernels(x, 2, weight.detach(), None, None, None, None).requires_grad


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_narrow_input_with_wide_parameters_and_residual(dtype):
    x, residual = seeded(2, 4, 9, dtype=dtype), seeded(2, 4, 9, seed=1, dtype=torch.float32)
    weight = seeded(4, seed=2, dtype=torch.float32).requires_grad_()
    leaves = [x.requires_grad_(), weight, residual.requires_grad_()]
    y = kernels(x, 2, weight, None, "silu", residual, None)
    grads = torch.autograd.grad(y, leaves, torch.ones_like(y))
    assert [g.dtype for g in grads] == [dtype, torch.float32, torch.float32]
    assert y.dtype == dtype
    wide = [t.detach().double().requires_grad_() for t in leaves]
    expected = general(wide[0], 2, wide[1], None, "silu", wide[2], None)
    assert_close(y.double(), expected, rtol=ROUNDING[dtype], atol=ROUNDING[dtype])
    for got, want in zip(grads, torch.autograd.grad(expected, wide, torch.ones_like(expected)), strict=True):
        assert_close(got.double(), want, rtol=4 * ROUNDING[dtype], atol=4 * ROUNDING[dtype])


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_every_activation_is_fused(name):
    x = seeded(2, 4, 33, dtype=torch.float32)
    assert_close(kernels(x, 2, None, None, name, None, None), general(x, 2, None, None, name, None, None))
