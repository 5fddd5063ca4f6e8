"""The passes over planes against their specification, in fp64 on the values that the kernel was given."""

import pytest
import torch
from torch.testing import assert_close

from normwise import ACTIVATIONS
from normwise.backends import reference
from normwise.core.moments import statistics_dtype

from .support import DEVICE, DTYPES, LARGE, ROUNDING, SMALL, close, exact, kernels, laid_out, needs_triton, seeded

pytestmark = needs_triton

LAYOUTS = ["contiguous", "last"]
GRID = pytest.mark.parametrize(
    ("shape", "layout", "dtype"),
    [
        *((s, layout, d) for s in SMALL for layout in LAYOUTS[: len(s) - 1] for d in DTYPES),
        *((s, layout, torch.float32) for s in LARGE for layout in LAYOUTS),
        *(((2, 3, 9), "shifted", d) for d in DTYPES),
    ],
    ids=str,
)


def tables(shape, dtype, offset=0.0):
    """mean, scale, shift, slope and offset; the second and the third for all samples alike."""
    kind = statistics_dtype(dtype)
    found = [seeded(*shape[:2], seed=10 + k).to(kind) for k in range(5)]
    found[1:3] = [t[:1].expand(shape[:2]) for t in found[1:3]]
    return [found[0] + offset, *found[1:]]


def mask_for(shape):
    return (seeded(shape[0], 1, *shape[2:], seed=5) > 0.3).contiguous()


@GRID
def test_moments(shape, layout, dtype):
    x = laid_out(seeded(*shape, dtype=dtype) + 3, layout)
    kind = statistics_dtype(dtype)
    for mask in (None, mask_for(shape)):
        got, want = kernels.moments(x, mask), reference.moments(x.double(), mask)
        assert got.mean.shape == want.mean.shape
        assert got.mean.dtype == got.var.dtype == torch.float64
        close(got.mean, want.mean, kind)
        close(got.var, want.var, kind)
        assert torch.equal(torch.as_tensor(got.count), torch.as_tensor(want.count))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("step", [0.0, 1e3])
def test_moments_far_from_zero_and_of_data_that_jumps(layout, step):
    """mean/std = 1000, and halves whose means differ: the pilot of the first half is wrong for the second."""
    x = seeded(1, 3, 90, 91).float() + 1000
    x[:, :, 45:] += step
    x = laid_out(x, layout)
    got, want = kernels.moments(x, None), reference.moments(x.double(), None)
    assert ((got.mean - want.mean).abs() < 1e-7 * want.var.sqrt()).all()
    assert_close(got.var, want.var, rtol=1e-6, atol=0)


@pytest.mark.parametrize("padding", [0.0, 1e30])
def test_a_mask_that_excludes_the_first_tiles_costs_no_digits(padding):
    mask = (torch.arange(9000, device=DEVICE) > 8000).view(1, 1, -1)
    x = torch.where(mask, seeded(1, 2, 9000).float() + 1000, padding)
    got, want = kernels.moments(x, mask), reference.moments(x.double(), mask)
    assert_close(got.var, want.var, rtol=1e-6, atol=0)
    assert_close(got.mean, want.mean, rtol=1e-10, atol=0)
    nothing = kernels.moments(x, torch.zeros_like(mask))
    assert nothing.mean.eq(0).all()
    assert nothing.var.eq(0).all()
    assert nothing.count.eq(0).all()


@GRID
def test_apply(shape, layout, dtype):
    x, residual = (laid_out(seeded(*shape, seed=s, dtype=dtype), layout) for s in (0, 1))
    for added, activation in ((None, None), (residual, ACTIVATIONS["silu"])):
        arguments = [x, *tables(shape, dtype)[:3], added, activation]
        got, want = kernels.apply(*arguments), reference.apply(*exact(arguments))
        assert got.dtype == dtype
        assert got.stride() == x.stride()
        close(got, want, dtype)


@GRID
def test_backward(shape, layout, dtype):
    grad_y, x, residual = (laid_out(seeded(*shape, seed=s, dtype=dtype), layout) for s in (0, 1, 2))
    mean, scale, shift, slope, offset = tables(shape, dtype)
    cases = [
        (None, None, slope, offset, None),
        (residual, ACTIVATIONS["tanh"], slope, offset, mask_for(shape)),
        (residual, ACTIVATIONS["gelu"], None, None, None),
    ]
    for added, activation, *through in cases:
        arguments = [grad_y, x, mean, scale, shift, added, activation]
        sums = zip(kernels.backward_reduce(*arguments), reference.backward_reduce(*exact(arguments)), strict=True)
        for got, want in sums:
            close(got, want, statistics_dtype(dtype), steps=4, what="sums")
        arguments += through
        grads, expected = kernels.backward_apply(*arguments), reference.backward_apply(*exact(arguments))
        close(grads[0], expected[0], dtype, steps=2, what="x")
        assert grads[0].stride() == x.stride()
        assert (grads[1] is None) == (added is None)
        if added is not None:
            close(grads[1], expected[1], dtype, steps=2, what="residual")


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_pass_over_data_far_from_zero(dtype, layout):
    """mean/std = 1000: nothing is lost but what the dtype itself cannot hold."""
    x, residual, grad_y = (laid_out(seeded(2, 6, 7, 7, seed=s, dtype=dtype), layout) for s in (0, 1, 2))
    x += 1000
    mean, scale, shift, slope, offset = tables(x.shape, dtype, offset=1000)
    got, want = kernels.moments(x, None), reference.moments(x.double(), None)
    close(got.mean / 1000, want.mean / 1000, torch.float32)
    close(got.var, want.var, torch.float32)
    arguments = [x, mean, scale, shift, residual, ACTIVATIONS["silu"]]
    close(kernels.apply(*arguments), reference.apply(*exact(arguments)), dtype)
    arguments = [grad_y, *arguments]
    sums = zip(kernels.backward_reduce(*arguments), reference.backward_reduce(*exact(arguments)), strict=True)
    for got, want in sums:
        close(got, want, statistics_dtype(dtype), steps=4, what="sums")
    arguments += [slope, offset, None]
    for got, want in zip(kernels.backward_apply(*arguments), reference.backward_apply(*exact(arguments)), strict=True):
        close(got, want, dtype, steps=2, what="grads")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_over_their_whole_range(name, dtype):
    z = torch.cat([torch.linspace(-30, 30, 2001), torch.tensor([-1e4, 1e4, -0.0, 1e-6, -1e-6])]).to(dtype).to(DEVICE)
    x, activation = z.view(1, 1, -1), ACTIVATIONS[name]
    zero, one = (torch.full((1, 1), v, dtype=statistics_dtype(dtype), device=DEVICE) for v in (0.0, 1.0))
    y = kernels.apply(x, zero, one, zero, None, activation)
    want = activation.function(x.double())
    assert_close(y.double(), want, rtol=4 * ROUNDING[dtype], atol=1e-6 if dtype != torch.float64 else 1e-14)
    grad, _ = kernels.backward_apply(torch.ones_like(x), x, zero, one, zero, None, activation, None, None, None)
    atol = 2e-6 if dtype != torch.float64 else 1e-12
    assert_close(grad.double(), activation.derivative(x.double()), rtol=4 * ROUNDING[dtype], atol=atol)


@pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")  # of NumPy, which interprets
@pytest.mark.parametrize("name", [None, *ACTIVATIONS])
def test_nan_is_not_hidden(name):
    activation = None if name is None else ACTIVATIONS[name]
    x = torch.tensor([torch.nan, torch.inf, -torch.inf, 1.0], device=DEVICE).repeat(9).view(1, 1, -1)
    zero, one = torch.zeros(1, 1, device=DEVICE), torch.ones(1, 1, device=DEVICE)
    y = kernels.apply(x, zero, one, zero, None, activation)
    assert y.isnan()[..., 0].all()
    assert not y.isnan()[..., 3].any()
    assert kernels.moments(x, None).var.isnan().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_a_residual_of_another_dtype_keeps_its_digits(dtype):
    other = torch.float32 if dtype == torch.bfloat16 else torch.bfloat16
    x, grad_y = (seeded(2, 3, 7, seed=s, dtype=dtype) for s in (0, 1))
    arguments = [x, *tables(x.shape, dtype)[:3], seeded(2, 3, 7, seed=2, dtype=other), ACTIVATIONS["silu"]]
    close(kernels.apply(*arguments), reference.apply(*exact(arguments)), dtype)
    arguments = [grad_y, *arguments, None, None, None]
    got, want = kernels.backward_apply(*arguments), reference.backward_apply(*exact(arguments))
    assert (got[0].dtype, got[1].dtype) == (dtype, other)
    close(got[0], want[0], dtype, steps=2)
    close(got[1], want[1], torch.bfloat16)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_sample_has_the_same_bits_in_any_batch(layout):
    x = laid_out(seeded(3, 4, 65, 70, dtype=torch.float32), layout)
    alone = laid_out(x[1:2], layout)
    many, one = kernels.moments(x, None), kernels.moments(alone, None)
    assert torch.equal(many.mean[1:2], one.mean)
    assert torch.equal(many.var[1:2], one.var)
