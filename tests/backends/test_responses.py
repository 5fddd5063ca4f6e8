"""The responses on every backend: values against NumPy in fp64, derivatives against its complex step."""

import math
from contextlib import contextmanager

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from marks import needs_kernels
from torch.testing import assert_close

from normwise import Gated, LargerScale, Thresholded, normalize, use_backend
from normwise.backends import cpu, reference, responses_of, triton_kernels
from normwise.core.moments import statistics_dtype
from normwise.core.responses import RESPONSES

BACKENDS = [
    reference,
    pytest.param(cpu, marks=needs_kernels),
]
every_backend = pytest.mark.parametrize("backend", BACKENDS, ids=lambda b: b.name)
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
# One rounding of the output's type, and a few of the arithmetic's.
ROUNDING = {torch.float32: 4e-6, torch.float64: 1e-13, torch.bfloat16: 2**-8, torch.float16: 2**-11}
# Primes, ones, whole vectors and the values around them.
SIZES = st.sampled_from([1, 2, 3, 5, 7, 8, 15, 16, 17, 31, 48, 64, 65, 127])


def thresholded(x, scale, shift, threshold):
    z = x * scale + shift
    return np.where(z.real < threshold.real, threshold, z)


def gated(x, scale, shift, v):
    return scale * x / (1 + np.exp(-v * x)) + shift


def larger_scale(x, scale, shift, least, v, own):
    other = v * x + own
    return x * scale / np.where(other.real > least.real, other, least) + shift


# The function, and how far its arguments are from where its derivative jumps.
ORACLES = {
    Thresholded: (thresholded, lambda x, scale, shift, threshold: x * scale + shift - threshold),
    Gated: (gated, lambda x, *_: np.full_like(x, np.inf)),
    LargerScale: (larger_scale, lambda x, _scale, _shift, least, v, own: v * x + own - least),
}
POSITIVE = {LargerScale: (2, 4)}


@st.composite
def cases(draw):
    """A response, a tensor of any rank, dtype and layout, its companions and tables."""
    kind, dtype, rank = draw(st.sampled_from([*RESPONSES])), draw(st.sampled_from(DTYPES)), draw(st.integers(0, 3))
    n, c = draw(st.sampled_from([1, 2, 3])), draw(SIZES)
    shape = (n, c, *[draw(SIZES) for _ in range(min(rank, 1))], *[draw(st.integers(1, 6)) for _ in range(rank - 1)])
    seed, offset = draw(st.integers(0, 2**31)), draw(st.sampled_from([0.0, 3.0]))
    layout = draw(st.sampled_from(["contiguous", "last", "sliced"]))
    case = make_case(kind, shape, dtype, layout, seed, offset, shared=draw(st.booleans()))
    for name in ("residual", "mask"):
        if draw(st.booleans()):
            case[name] = None
    return case


def make_case(kind, shape, dtype, layout, seed=0, offset=0.5, *, shared=False):
    generator = torch.Generator().manual_seed(seed)

    def values(*size):
        return torch.randn(size, generator=generator, dtype=torch.float64)

    def big(offset=0.0):
        t = (values(*shape) + offset).to(dtype)
        if layout == "last" and len(shape) > 2:
            return t.movedim(1, -1).contiguous().movedim(-1, 1)
        if layout == "sliced":  # an address that no vector is aligned to
            return torch.cat([t.flatten()[:1], t.flatten()])[1:].view(shape)
        return t

    tables = [values(*shape[:2]).to(statistics_dtype(dtype)) for _ in range(3 + len(kind._fields) - 1)]
    if shared:
        tables = [t[:1].expand(shape[:2]) for t in tables]
    mean, slope, offset_table, *tables = tables
    for i in POSITIVE.get(kind, ()):
        tables[i] = tables[i].abs() + 0.5
    case = {"kind": kind, "x": big(offset), "grad_y": big(), "residual": big(), "tables": tables}
    case["mask"] = torch.rand(shape[0], 1, *shape[2:], generator=generator) < 0.6
    case["back"] = (mean, slope, offset_table)
    return without_kinks(case)


def without_kinks(case):
    """Nothing is asked of a derivative near its jump, where a rounding decides."""
    near = ORACLES[case["kind"]][1](*wide(case))
    case["grad_y"] = torch.where(torch.from_numpy(np.abs(near) < 1e-3), 0, case["grad_y"]).to(case["x"].dtype)
    return case


def wide(case):
    """The function's arguments as fp64 arrays, the residual in the shift."""
    x = case["x"].double().numpy()
    tables = [t.double().numpy().reshape(*t.shape, *[1] * (x.ndim - 2)) for t in case["tables"]]
    if case["residual"] is not None:
        tables[1] = tables[1] + case["residual"].double().numpy()
    return x, *tables


def slopes(case):
    """The derivatives by each argument of the function, by complex step."""
    function, arguments = ORACLES[case["kind"]][0], wide(case)
    found = []
    for i in range(len(arguments)):
        moved = [a + (1e-30j if i == j else 0j) for j, a in enumerate(arguments)]
        found.append(function(*moved).imag / 1e-30)
    return found


def strides(t):
    """Those that matter: of more than one value."""
    return [stride for size, stride in zip(t.shape, t.stride(), strict=True) if size > 1]


def call(case, name, backend, *more):
    arguments = (case["x"], RESPONSES[case["kind"]], case["tables"], case["residual"], *more)
    return getattr(backend, name)(*(() if name == "respond" else (case["grad_y"],)), *arguments)


def close(got, want, dtype, steps=1, size=None):
    size = np.full_like(want, max(np.abs(want).max(initial=0), 1.0)) if size is None else np.maximum(size, 1e-30)
    want, size = torch.from_numpy(want), torch.from_numpy(size)
    assert_close(got.double() / size, want / size, rtol=0, atol=steps * ROUNDING[dtype])


def check_value(case, backend):
    got = call(case, "respond", backend)
    assert got.dtype == case["x"].dtype
    assert strides(got) == strides(case["x"])
    close(got, ORACLES[case["kind"]][0](*wide(case)), case["x"].dtype)


def check_sums(case, backend):
    got, g = call(case, "respond_reduce", backend), case["grad_y"].double().numpy()
    space = tuple(range(2, g.ndim))
    assert len(got) == len(case["tables"])
    for sums, slope in zip(got, slopes(case)[1:], strict=True):
        assert sums.dtype == statistics_dtype(case["x"].dtype)
        terms = g * slope
        # Sums may cancel, so that they are compared with the size of their terms.
        close(sums, terms.sum(space), sums.dtype, size=np.abs(terms).sum(space))


def check_gradients(case, backend):
    mean, slope, offset = case["back"]
    grad_x, grad_residual = call(case, "respond_backward", backend, mean, slope, offset, case["mask"])
    x, dtype, g = case["x"].double().numpy(), case["x"].dtype, case["grad_y"].double().numpy()
    m, s, o = (t.double().numpy().reshape(*t.shape, *[1] * (x.ndim - 2)) for t in case["back"])
    kept = True if case["mask"] is None else case["mask"].numpy()
    to_x, _, to_shift, *_ = slopes(case)
    close(grad_x, g * to_x + np.where(kept, s * (x - m) + o, 0), dtype, steps=2)
    assert strides(grad_x) == strides(case["x"])
    assert (grad_residual is None) == (case["residual"] is None)
    if grad_residual is not None:
        close(grad_residual, g * to_shift, case["residual"].dtype, steps=2)


CHECKS = [check_value, check_sums, check_gradients]


@every_backend
@pytest.mark.parametrize("check", CHECKS)
@settings(max_examples=100, deadline=None)
@given(case=cases())
def test_against_numpy(check, backend, case):
    check(case, backend)


@every_backend
@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("layout", ["contiguous", "last"])
@pytest.mark.parametrize("kind", RESPONSES)
def test_planes_of_several_pieces(check, backend, kind, layout):
    """More values than one chunk, block or task has."""
    check(make_case(kind, (2, 3, 70_001), torch.float32, layout), backend)
    check(make_case(kind, (1, 40, 1100), torch.bfloat16, layout), backend)


@every_backend
@pytest.mark.parametrize("kind", RESPONSES)
def test_known_statistics_have_no_backflow(kind, backend):
    case = make_case(kind, (2, 3, 17), torch.float64, "contiguous")
    got = call(case, "respond_backward", backend, case["back"][0], None, None, None)[0]
    close(got, case["grad_y"].numpy() * slopes(case)[0], torch.float64)


@every_backend
@pytest.mark.parametrize("layout", ["contiguous", "last"])
def test_ties(backend, layout):
    """At the threshold the response passes; equal scales share the gradient as torch's maximum shares it."""
    x = torch.full((2, 3, 37), 2.0, dtype=torch.float64)
    x = x.movedim(1, -1).contiguous().movedim(-1, 1) if layout == "last" else x
    one = torch.ones(2, 3, dtype=torch.float64)
    g = torch.ones_like(x)
    to_scale, to_shift, to_threshold = backend.respond_reduce(g, x, RESPONSES[Thresholded], [one, one, 3 * one], None)
    assert (to_scale.eq(74).all(), to_shift.eq(37).all(), to_threshold.eq(0).all()) == (True, True, True)
    tables = [t.requires_grad_() for t in (one * 5, one * 0, one * 8, one * 3, one * 2)]  # 3·2 + 2 = 8
    leaf = x.clone().requires_grad_()
    over = (..., None)
    y = leaf * tables[0][over] / torch.maximum(tables[2][over], tables[3][over] * leaf + tables[4][over])
    want = torch.autograd.grad(y.sum(), [leaf, tables[0], *tables[2:]])
    tables = [t.detach() for t in tables]
    sums = backend.respond_reduce(g, x, RESPONSES[LargerScale], tables, None)
    grad_x, _ = backend.respond_backward(g, x, RESPONSES[LargerScale], tables, None, one, 0 * one, 0 * one, None)
    assert_close([grad_x, sums[0], *sums[2:]], list(want))


@every_backend
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", RESPONSES)
def test_nan_is_not_hidden(kind, backend, dtype):
    """In x, and in each coefficient."""
    tables = [torch.ones(1, 1, dtype=statistics_dtype(dtype)) for _ in kind._fields[:-1]]
    x = torch.tensor([math.nan, 1.0, 2.0] * 7, dtype=dtype).view(1, 1, -1)
    y = backend.respond(x, RESPONSES[kind], tables, None)
    assert torch.equal(y.isnan(), x.isnan())
    for i, name in enumerate(kind._fields[:-1]):
        broken = [t * math.nan if i == j else t for j, t in enumerate(tables)]
        y = backend.respond(x, RESPONSES[kind], broken, None)
        # `where(y < τ, τ, y)` takes y.
        assert torch.equal(y.isnan(), x.isnan() | (name != "threshold"))


@needs_kernels
class TestCompiledKernels:
    @pytest.mark.parametrize("layout", ["contiguous", "last"])
    @pytest.mark.parametrize("kind", RESPONSES)
    def test_the_bits_do_not_depend_on_the_threads(self, kind, layout):
        case, runs = make_case(kind, (3, 20, 4970), torch.float32, layout), []
        for count in (1, 2, 3, 2):
            with threads(count):
                back = (*case["back"], case["mask"])
                runs.append(
                    [
                        call(case, "respond", cpu),
                        *call(case, "respond_reduce", cpu),
                        *call(case, "respond_backward", cpu, *back),
                    ]
                )
        for run in runs[1:]:
            assert all(torch.equal(a, b) for a, b in zip(runs[0], run, strict=True))

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
    @pytest.mark.parametrize("kind", RESPONSES)
    def test_a_residual_of_another_dtype_keeps_its_digits(self, kind, dtype):
        case = make_case(kind, (2, 3, 37), dtype, "contiguous")
        case["residual"] = case["residual"].to(torch.float32 if dtype == torch.bfloat16 else torch.bfloat16)
        case["x"] = case["x"] + 0.25
        without_kinks(case)
        for check in CHECKS:
            check(case, cpu)

    def test_the_gate_over_its_whole_range(self):
        x = torch.cat([torch.linspace(-60, 60, 4001), torch.tensor([-1e4, 1e4, -0.0, 1e-6])]).view(1, 1, -1)
        one, zero = torch.ones(1, 1), torch.zeros(1, 1)
        y = cpu.respond(x, RESPONSES[Gated], [one, zero, one], None)
        exact = torch.nn.functional.silu(x.double())
        assert_close(y.double(), exact, rtol=2e-6, atol=1e-30)


@contextmanager
def threads(count):
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def test_a_backend_without_responses_leaves_them_to_the_reference():
    assert responses_of(cpu) is cpu
    assert responses_of(reference) is reference
    assert responses_of(triton_kernels) is reference


def test_a_formula_of_ones_own():
    """Public: the type that the formula returns decides."""
    x = torch.randn(2, 3, 5, dtype=torch.float64, requires_grad=True)
    weight = torch.rand(3, dtype=torch.float64, requires_grad=True)

    def formula(moments, weight):
        return Gated(weight * moments.var.rsqrt(), 0.5, 2.0)

    for name in ("reference", "cpu") if cpu.unavailable() is None else ("reference",):
        with use_backend(name):
            y = normalize(x, formula, weight, activation="tanh")
        std = x.var(2, correction=0, keepdim=True).sqrt()
        want = (x * torch.sigmoid(2 * x) * weight.view(1, 3, 1) / std + 0.5).tanh()
        assert_close(y, want)
        cotangent = torch.randn_like(y)
        assert_close(torch.autograd.grad(y, [x, weight], cotangent), torch.autograd.grad(want, [x, weight], cotangent))

    def call(x, weight):
        return normalize(x, formula, weight, activation="tanh")

    assert torch.autograd.gradgradcheck(call, (x, weight), fast_mode=True)
