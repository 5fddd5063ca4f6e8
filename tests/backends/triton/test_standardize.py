"""Standardization on chip and split over programs against the general path in fp64: output, gradients, moments."""

from functools import partial

import pytest
import torch
from standardizing import by_running, over_batch, over_groups
from torch.testing import assert_close

import normwise as nw
from normwise import Moments, normalize_and_measure, use_backend
from normwise.backends.triton_kernels import geometry
from normwise.core import formulas

from .support import DTYPES, close, laid_out, needs_triton, seeded

pytestmark = needs_triton

EPS = 1e-3
# groups 0: over the batch. 7x7 maps, one value per channel, groups of 3 and 5 channels, one group, all groups.
CASES = [
    ((5, 6, 7, 7), 2),
    ((5, 6, 7, 7), 0),
    ((3, 15, 4), 5),
    ((3, 15, 4), 3),
    ((2, 7, 3, 5), 7),
    ((2, 7, 3, 5), 1),
    ((6, 12), 4),
    ((6, 12), 0),
    ((2, 3, 1, 1), 1),
    ((1, 6, 2, 3, 4), 2),
    ((2, 4, 61, 67), 2),
    ((3, 2, 61, 67), 0),
]


@pytest.fixture(params=["on chip", "split"])
def room(request, monkeypatch):
    """Both ways for the same small shapes: pools that fit, and no room at all."""
    if request.param == "split":
        from normwise.backends.triton_kernels import on_pools as module

        monkeypatch.setattr(module, "ON_CHIP_FORWARD", 0)
        monkeypatch.setattr(module, "ON_CHIP_BACKWARD", 0)
    return request.param


def general(leaves, groups, activation, known):
    """The specification: the formula on the reference backend's table."""
    if known is not None:
        formula = partial(formulas.standardized, eps=EPS)
    elif groups:
        formula = partial(formulas.group_norm, groups=groups, eps=EPS)
    else:
        formula = partial(formulas.batch_norm, eps=EPS)
    options = {"activation": activation, "residual": leaves["residual"], "moments": known}
    with use_backend("reference"):
        return normalize_and_measure(leaves["x"], formula, leaves["weight"], leaves["bias"], **options)[0]


def kernels(leaves, groups, activation, known):
    options = {"activation": activation, "residual": leaves["residual"]}
    x, rest = leaves["x"], (leaves["weight"], leaves["bias"], EPS)
    with use_backend("triton"):
        if known is not None:
            running = nw.core.running.RunningStatistics(known.mean[0], known.var[0], None, 0.1)
            return by_running(x, running, *rest, **options)
        if groups:
            return over_groups(x, groups, *rest, **options)
        return over_batch(x, *rest, **options)[0]


def results(function, tensors, grad_y, dtype, *rest):
    leaves = {k: None if t is None else t.to(dtype).requires_grad_() for k, t in tensors.items()}
    y = function(leaves, *rest)
    wanted = {k: t for k, t in leaves.items() if t is not None}
    grads = torch.autograd.grad(y, list(wanted.values()), grad_y.to(dtype))
    assert y.stride() == leaves["x"].stride() == tensors["x"].stride()
    return {"y": y.detach(), **dict(zip(wanted, grads, strict=True))}


def compare(tensors, grad_y, *rest):
    dtype = tensors["x"].dtype
    got, want = (
        results(kernels, tensors, grad_y, dtype, *rest),
        results(general, tensors, grad_y, torch.float64, *rest),
    )
    for name, expected in want.items():
        assert got[name].dtype == dtype
        close(got[name], expected, dtype, steps=8, what=name)


def tensors_of(shape, dtype, layout="contiguous", full=True, offset=0.25):
    x, residual, grad_y = (laid_out(seeded(*shape, seed=s, dtype=dtype), layout) for s in (0, 1, 2))
    parameters = [seeded(shape[1], seed=s, dtype=dtype) for s in (3, 4)] if full else [None, None]
    leaves = {"x": x + offset, "weight": parameters[0], "bias": parameters[1], "residual": residual if full else None}
    return leaves, grad_y


@pytest.mark.parametrize("layout", ["contiguous", "last"])
@pytest.mark.parametrize(("shape", "groups"), CASES, ids=str)
def test_output_and_gradients(shape, groups, layout, room):
    for dtype, full in ((torch.float32, True), (torch.bfloat16, False), (torch.float16, True)):
        leaves, grad_y = tensors_of(shape, dtype, layout, full)
        compare(leaves, grad_y, groups, "silu" if full else None, None)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("groups", [0, 3])
def test_every_dtype(groups, dtype, room):
    leaves, grad_y = tensors_of((4, 6, 5, 5), dtype)
    compare(leaves, grad_y, groups, "gelu", None)


@pytest.mark.parametrize("layout", ["contiguous", "last"])
def test_by_known_statistics(layout):
    known = Moments(seeded(1, 5, seed=7), seeded(1, 5, seed=8).square() + 0.1, 1)
    for full in (True, False):
        leaves, grad_y = tensors_of((3, 5, 4, 3), torch.float32, layout, full)
        compare(leaves, grad_y, 0, "tanh", known)


@pytest.mark.parametrize("layout", ["contiguous", "last"])
@pytest.mark.parametrize("groups", [0, 1, 4])
def test_data_far_from_zero_costs_no_digits(groups, layout, room):
    """mean/std = 1000."""
    leaves, grad_y = tensors_of((4, 4, 9, 9), torch.float32, layout, offset=1000.0)
    leaves |= {"bias": None, "residual": None}
    rest = (groups, None, None)
    got = results(kernels, leaves, grad_y, torch.float32, *rest)
    want = results(general, leaves, grad_y, torch.float64, *rest)
    for name in want:
        error = (got[name].double() - want[name]).square().mean().sqrt()
        assert error <= 1e-6 * want[name].square().mean().sqrt(), name


@pytest.mark.parametrize("layout", ["contiguous", "last"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("groups", [0, 2])
def test_data_far_from_zero_in_narrow_types(groups, dtype, layout, room):
    """mean/std = 1000, of the values that the type holds: at 1000 they are 4 apart in bf16 and 0.5 in fp16."""
    leaves, grad_y = tensors_of((4, 6, 7, 7), dtype, layout, offset=1000.0)
    compare(leaves, grad_y, groups, None, None)


@pytest.mark.parametrize("layout", ["contiguous", "last"])
def test_the_moments_are_those_of_the_batch(layout, room):
    x = laid_out(seeded(6, 5, 10, 11, dtype=torch.float32), layout)
    with use_backend("triton"):
        _, table = over_batch(x, None, None, EPS)
    assert table.mean.shape == table.var.shape == (1, 5)
    assert table.count == 6 * 10 * 11
    assert_close(table.mean[0], x.double().mean((0, 2, 3)), rtol=0, atol=1e-7)
    assert_close(table.var[0], x.double().var((0, 2, 3), correction=0), rtol=1e-6, atol=0)


def test_first_and_second_derivatives_by_finite_differences():
    leaves = [seeded(3, 4, 2), seeded(4, seed=1), seeded(4, seed=2)]

    def call(x, weight, bias):
        return kernels({"x": x, "weight": weight, "bias": bias, "residual": None}, 2, "tanh", None)

    leaves = [t.requires_grad_() for t in leaves]
    assert torch.autograd.gradcheck(call, leaves, fast_mode=True)
    assert torch.autograd.gradgradcheck(call, leaves, fast_mode=True)


def test_only_the_wanted_gradients():
    leaves, grad_y = tensors_of((2, 4, 5), torch.float32)
    leaves["weight"].requires_grad_()
    y = kernels(leaves, 2, None, None)
    expected = general(leaves, 2, None, None)
    assert_close(
        torch.autograd.grad(y, leaves["weight"], grad_y), torch.autograd.grad(expected, leaves["weight"], grad_y)
    )


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_a_sample_has_the_same_bits_in_any_batch_and_in_any_run(groups, room):
    leaves, _ = tensors_of((5, 4, 9, 9), torch.float32)
    alone = {k: t[2:3] if k in ("x", "residual") else t for k, t in leaves.items()}
    many, one, again = (kernels(case, groups, "silu", None) for case in (leaves, alone, leaves))
    assert torch.equal(many[2:3], one)
    assert torch.equal(many, again)


def test_which_pools_stay_on_chip():
    """The one rule about it: the size of the pool in bytes, rounded up to powers of two."""
    x = torch.empty(1, 64, 56, 56, device="meta")
    pools = geometry.groups(x, False, 32)
    assert geometry.on_chip(pools, torch.float32, geometry.ON_CHIP_FORWARD)
    assert not geometry.on_chip(pools._replace(length=112 * 112), torch.float32, geometry.ON_CHIP_BACKWARD)
    # In channels_last 16 channels lie in one tile: 7x7 maps of 64 samples fit in one layout, not in the other.
    maps = torch.empty(64, 2048, 7, 7, device="meta")
    fits = [geometry.on_chip(geometry.batch(maps, last), torch.float32, geometry.ON_CHIP_FORWARD) for last in (0, 1)]
    assert fits == [True, False]
    for last in (False, True):
        for pools in (geometry.planes(x, last), geometry.groups(x, last, 32), geometry.batch(x, last)):
            assert pools.total * pools.size == x.numel()
