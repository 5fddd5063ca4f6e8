"""Every C++ kernel against its specification, in fp64 on the values that the kernel was given."""

import math
from contextlib import contextmanager

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from marks import needs_kernels
from torch.testing import assert_close

from normwise import ACTIVATIONS
from normwise.backends import cpu, reference
from normwise.core.moments import statistics_dtype

pytestmark = needs_kernels

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
# One rounding of the output's type, and for the wider ones a few of the arithmetic's.
ROUNDING = {torch.float32: 2e-6, torch.float64: 1e-13, torch.bfloat16: 2**-8, torch.float16: 2**-11}
# Primes, ones, whole vectors and the values around them.
SIZES = st.sampled_from([1, 2, 3, 5, 7, 8, 15, 16, 17, 31, 48, 64, 65, 127])


@contextmanager
def threads(count):
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@st.composite
def shapes(draw):
    rank = draw(st.integers(0, 3))
    n, c = draw(st.sampled_from([1, 2, 3])), draw(SIZES)
    space = tuple(draw(SIZES) for _ in range(min(rank, 1))) + tuple(draw(st.integers(1, 6)) for _ in range(rank - 1))
    return (n, c, *space)


@st.composite
def cases(draw):
    """A tensor of any rank, dtype and layout, its companions, and what the kernels may be asked to do with it."""
    shape, dtype = draw(shapes()), draw(st.sampled_from(DTYPES))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))

    def values(*size):
        return torch.randn(size, generator=generator, dtype=torch.float64)

    layout = draw(st.sampled_from(["contiguous", "last", "sliced"]))
    offset = draw(st.sampled_from([0.0, 3.0]))

    def big():
        t = (values(*shape) + offset).to(dtype)
        if layout == "last" and len(shape) > 2:
            return t.movedim(1, -1).contiguous().movedim(-1, 1)
        if layout == "sliced":  # an address that no vector is aligned to
            return torch.cat([t.flatten()[:1], t.flatten()])[1:].view(shape)
        return t

    kind = statistics_dtype(dtype)
    tables = [values(*shape[:2]).to(kind) for _ in range(5)]
    if draw(st.booleans()):
        tables = [t[:1].expand(shape[:2]) for t in tables]
    mask = torch.rand(shape[0], 1, *shape[2:], generator=generator) < draw(st.sampled_from([0.0, 0.5, 1.0]))
    activation = draw(st.sampled_from([None, "relu", *ACTIVATIONS]))
    return {
        "x": big(),
        "grad_y": big(),
        "residual": big() if draw(st.booleans()) else None,
        "tables": tables,
        "mask": mask if draw(st.booleans()) else None,
        "activation": None if activation is None else ACTIVATIONS[activation],
    }


def exact(value):
    """The same arguments in fp64, so that the specification's own rounding plays no part."""
    if isinstance(value, torch.Tensor):
        return value.double() if value.is_floating_point() else value
    return [exact(v) for v in value] if isinstance(value, list) else value


def close(got, want, dtype, steps=1):
    # Relative to the largest value: sums and differences of values of one size carry the rounding of that size.
    size = max(want.abs().max().item(), 1.0)
    assert_close(got.double() / size, want / size, rtol=0, atol=steps * ROUNDING[dtype])


@settings(max_examples=100, deadline=None)
@given(cases())
def test_moments(case):
    x, mask = case["x"], case["mask"]
    got, want = cpu.moments(x, mask), reference.moments(x.double(), mask)
    kind = statistics_dtype(x.dtype)
    close(got.mean, want.mean, kind)
    close(got.var, want.var, kind)
    assert torch.equal(torch.as_tensor(got.count), torch.as_tensor(want.count))


@pytest.mark.parametrize("masked", [False, True], ids=["all", "masked"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_data_that_jumps_costs_the_mean_no_digits(dtype, masked):
    """Chunks of 4096 values are summed around the mean so far; far from it the differences would be rounded.

    Summed around its own mean, a chunk's mean is as good as a rounding of its deviations, which are of size 1: not of
    the jump, 3 to 4 digits more.
    """
    jumps = torch.tensor([0.0, 1e4, -3e4, 0.0]).to(dtype).repeat_interleave(4096)
    x = (torch.randn(1, 2, 4 * 4096, generator=torch.Generator().manual_seed(0)) + jumps).to(dtype)
    mask = torch.rand(1, 1, 4 * 4096, generator=torch.Generator().manual_seed(1)) < 0.9 if masked else None
    found = cpu.moments(x, mask)
    kept = x.double() if mask is None else x.double()[mask.expand_as(x)].view(1, 2, -1)
    # The sum of n deviations of size 1 in some lanes: at most their number of roundings, each of a partial sum.
    unit = torch.finfo(dtype).eps / 2
    assert_close(found.mean, kept.mean(2), rtol=0, atol=8 * unit + 2**-53 * 3e4)
    # Mostly the distances of the chunks' means, which Chan's formula adds in fp64. torch's own variance loses more of
    # fp64 than the kernel does: the squares are summed exactly.
    squares = (kept - kept.mean(2, keepdim=True)).square()[0].tolist()
    var = torch.tensor([[math.fsum(values) / len(values) for values in squares]], dtype=torch.float64)
    assert_close(found.var, var, rtol=8 * unit, atol=0)


@settings(max_examples=100, deadline=None)
@given(cases())
def test_apply(case):
    arguments = [case["x"], *case["tables"][:3], case["residual"], case["activation"]]
    got, want = cpu.apply(*arguments), reference.apply(*exact(arguments))
    assert got.dtype == case["x"].dtype
    assert got.stride() == case["x"].stride()
    close(got, want, case["x"].dtype)


def away_from_kinks(case):
    """A derivative that jumps may be on either side where the value is within a rounding of the jump."""
    x, (mean, scale, shift) = case["x"].double(), (t.double() for t in case["tables"][:3])
    over = (..., *(None,) * (x.dim() - 2))
    z = (x - mean[over]) * scale[over] + shift[over]
    z = z if case["residual"] is None else z + case["residual"].double()
    return all(((z - kink).abs() > 1e-5).all() for kink in (-3, 0, 3, 6))


@settings(max_examples=100, deadline=None)
@given(cases())
def test_backward_reduce(case):
    arguments = [case["grad_y"], case["x"], *case["tables"][:3], case["residual"], case["activation"]]
    if not away_from_kinks(case):
        return
    got, want = cpu.backward_reduce(*arguments), reference.backward_reduce(*exact(arguments))
    for g, w in zip(got, want, strict=True):
        close(g, w, statistics_dtype(case["x"].dtype), steps=4)


@settings(max_examples=100, deadline=None)
@given(cases(), st.booleans())
def test_backward_apply(case, measured):
    if not away_from_kinks(case):
        return
    through = case["tables"][3:] if measured else [None, None]
    arguments = [
        *(case["grad_y"], case["x"], *case["tables"][:3], case["residual"], case["activation"]),
        *(*through, case["mask"]),
    ]
    got, want = cpu.backward_apply(*arguments), reference.backward_apply(*exact(arguments))
    close(got[0], want[0], case["x"].dtype, steps=2)
    assert got[0].stride() == case["x"].stride()
    assert (got[1] is None) == (want[1] is None)
    if got[1] is not None:
        close(got[1], want[1], case["x"].dtype, steps=2)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_over_their_whole_range(name, dtype):
    z = torch.cat([torch.linspace(-30, 30, 4001), torch.tensor([-1e4, 1e4, -0.0, 1e-6, -1e-6])]).to(dtype)
    x, activation = z.view(1, 1, -1), ACTIVATIONS[name]
    zero, one = (torch.full((1, 1), v, dtype=statistics_dtype(dtype)) for v in (0.0, 1.0))
    y = cpu.apply(x, zero, one, zero, None, activation)
    want = activation.function(x.double())
    assert_close(y.double(), want, rtol=4 * ROUNDING[dtype], atol=1e-6 if dtype != torch.float64 else 1e-14)
    grad, _ = cpu.backward_apply(torch.ones_like(x), x, zero, one, zero, None, activation, None, None, None)
    atol = 2e-6 if dtype != torch.float64 else 1e-12
    assert_close(grad.double(), activation.derivative(x.double()), rtol=4 * ROUNDING[dtype], atol=atol)


@pytest.mark.parametrize("name", [None, *ACTIVATIONS])
def test_nan_and_infinity_are_not_hidden(name):
    activation = None if name is None else ACTIVATIONS[name]
    x = torch.tensor([torch.nan, torch.inf, -torch.inf, 1.0]).repeat(9).view(1, 1, -1)
    zero, one = torch.zeros(1, 1), torch.ones(1, 1)
    y, want = (b.apply(x, zero, one, zero, None, activation) for b in (cpu, reference))
    assert torch.equal(y.isnan()[..., :1], want.isnan()[..., :1])
    assert torch.isnan(cpu.moments(x, None).var).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_every_number_of_16_bits_is_rounded_as_torch_rounds_it(dtype):
    """Widening is exact and narrowing is to nearest even, NaN, subnormal numbers and overflow included."""
    narrow = torch.bfloat16 if dtype == torch.float32 else dtype
    patterns = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(narrow)
    x = patterns.view(1, 1, -1)
    zero = torch.zeros(1, 1)
    for scale in (1.0, 1 + 2**-9, 2**-3 + 2**-12, 3.0):
        factor = torch.full((1, 1), scale)
        got = cpu.apply(x, zero, factor, zero, None, None)
        want = (x.float() * scale).to(narrow)
        assert_close(got, want, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_large_tensors_use_several_tasks_and_keep_their_digits(layout, dtype):
    generator = torch.Generator().manual_seed(0)
    shape = (2, 24, 130, 131)
    x = torch.randn(shape, generator=generator).add_(2).to(dtype).to(memory_format=layout)
    grad_y = torch.randn(shape, generator=generator).to(dtype).to(memory_format=layout)
    kind = statistics_dtype(dtype)
    tables = [torch.randn(2, 24, generator=generator, dtype=torch.float64).to(kind) for _ in range(5)]
    mask = torch.rand(2, 1, 130, 131, generator=generator) < 0.7
    for m in (None, mask):
        got, want = cpu.moments(x, m), reference.moments(x.double(), m)
        close(got.mean, want.mean, kind)
        close(got.var, want.var, kind)
    arguments = [grad_y, x, *tables[:3], None, ACTIVATIONS["silu"]]
    for g, w in zip(cpu.backward_reduce(*arguments), reference.backward_reduce(*exact(arguments)), strict=True):
        close(g, w, kind)
    arguments += [*tables[3:], mask]
    close(cpu.backward_apply(*arguments)[0], reference.backward_apply(*exact(arguments))[0], dtype, steps=2)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("step", [0.0, 1e3])
def test_moments_far_from_zero_and_of_data_that_jumps(layout, step):
    """mean/std = 1000, and halves whose means differ: the pilot of the first half is wrong for the second."""
    x = torch.randn(3, 5, 90, 91, generator=torch.Generator().manual_seed(0)) + 1000
    x[:, :, 45:] += step
    x = x.to(memory_format=layout)
    got, want = cpu.moments(x, None), reference.moments(x.double(), None)
    assert ((got.mean - want.mean).abs() < 1e-7 * want.var.sqrt()).all()
    assert_close(got.var, want.var, rtol=1e-6, atol=0)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_bits_do_not_depend_on_the_threads(layout):
    generator = torch.Generator().manual_seed(0)
    x, grad_y = (torch.randn(3, 20, 70, 71, generator=generator).to(memory_format=layout) for _ in range(2))
    tables = [torch.randn(3, 20, generator=generator) for _ in range(5)]
    runs = []
    for count in (1, 2, 3, 2):
        with threads(count):
            moments = cpu.moments(x, None)
            y = cpu.apply(x, *tables[:3], None, ACTIVATIONS["gelu"])
            sums = cpu.backward_reduce(grad_y, x, *tables[:3], None, ACTIVATIONS["gelu"])
            grad, _ = cpu.backward_apply(grad_y, x, *tables[:3], None, None, *tables[3:], None)
            runs.append((moments.mean, moments.var, y, *sums, grad))
    for run in runs[1:]:
        assert all(torch.equal(a, b) for a, b in zip(runs[0], run, strict=True))


def test_what_is_not_served_goes_elsewhere():
    class Subclass(torch.Tensor):
        pass

    assert cpu.serves(torch.randn(2, 3))
    assert cpu.serves(torch.nn.Parameter(torch.randn(2, 3)))
    assert not cpu.serves(torch.randn(2, 3).as_subclass(Subclass))
    assert not cpu.serves(torch.empty(0, 3))
    assert not cpu.serves(torch.empty(2, 3, device="meta"))
    assert not cpu.serves(torch.zeros(2, 3, dtype=torch.int32))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_a_residual_of_another_dtype_keeps_its_digits(dtype):
    other = torch.float32 if dtype == torch.bfloat16 else torch.bfloat16
    generator = torch.Generator().manual_seed(0)
    x, grad_y = (torch.randn(2, 3, 7, generator=generator).to(dtype) for _ in range(2))
    residual = torch.randn(2, 3, 7, generator=generator).to(other)
    tables = [torch.randn(2, 3, generator=generator) for _ in range(5)]
    arguments = [x, *tables[:3], residual, ACTIVATIONS["silu"]]
    y = cpu.apply(*arguments)
    assert y.dtype == dtype
    close(y, reference.apply(*exact(arguments)), dtype)
    arguments = [grad_y, *arguments, *tables[3:], None]
    got, want = cpu.backward_apply(*arguments), reference.backward_apply(*exact(arguments))
    assert (got[0].dtype, got[1].dtype) == (dtype, other)
    close(got[0], want[0], dtype, steps=2)
    close(got[1], want[1], torch.bfloat16)
