"""Formulas of a user: marked as pure they run as those of the package do, with the numbers of an unmarked one."""

import logging
from functools import partial

import pytest
import torch
from marks import needs_kernels

import normwise as nw

C = 6


def between(moments, weight, bias, *, share=0.5, eps=1e-5, target=None):
    """Between batch and instance normalization, or towards given moments."""
    batch = moments.over_batch() if target is None else target
    mean, var = ((1 - share) * mine + share * other for mine, other in zip(moments[:2], batch[:2], strict=True))
    return nw.Affine(mean, weight * (var + eps).rsqrt(), bias)


def gated(moments, weight, bias):
    return nw.Gated(weight * (moments.var + 1e-5).rsqrt(), bias, weight)


def marked(function):
    """A marked formula of its own, so that the other stays unmarked."""

    @nw.formula
    def pure(*arguments, **constants):
        return function(*arguments, **constants)

    return pure


def unmarked(function):
    """A formula whose code does not show what it computes."""
    return lambda *arguments, **constants: function(*arguments, **constants)


KNOWN = nw.Moments(torch.linspace(-1, 1, C).double()[None], torch.linspace(0.5, 2, C).double()[None], 1)
FORMULAS = {
    "plain": (between, {}),
    "numbers": (between, {"share": 0.25, "eps": 1e-3}),
    "tensors": (between, {"target": KNOWN}),
    "response": (gated, {}),
}


def results(formula, dtype, layout, **options):
    generator = torch.Generator().manual_seed(0)
    x = (torch.randn(3, C, 5, 4, generator=generator) + 3).to(dtype).contiguous(memory_format=layout).requires_grad_()
    parameters = [torch.rand(C, generator=generator).add(0.5).requires_grad_() for _ in range(2)]
    y = nw.normalize(x, formula, *parameters, **options)
    grad_y = torch.randn(y.shape, generator=generator).to(dtype)
    return [y.detach(), *torch.autograd.grad(y, [x, *parameters], grad_y)]


@needs_kernels
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("name", FORMULAS)
def test_a_marked_formula_is_recorded_and_gives_the_same(name, dtype, layout, runs):
    function, constants = FORMULAS[name]
    found = results(partial(marked(function), **constants), dtype, layout, activation="silu")
    assert len(runs) == 1
    assert runs[0] is not None
    want = results(partial(unmarked(function), **constants), dtype, layout, activation="silu")
    assert runs[1] is None
    for got, expected in zip(found, want, strict=True):
        rounding = torch.finfo(got.dtype).eps
        torch.testing.assert_close(got, expected, rtol=8 * rounding, atol=8 * rounding * float(expected.abs().max()))


@needs_kernels
def test_a_decorated_function_needs_no_constants(runs):
    @nw.formula
    def instance(moments):
        return nw.Affine(moments.mean, (moments.var + 1e-5).rsqrt(), 0.0)

    x = torch.randn(2, C, 7)
    torch.testing.assert_close(nw.normalize(x, instance), torch.nn.functional.instance_norm(x), rtol=0, atol=1e-6)
    assert runs[0] is not None


@pytest.mark.parametrize("mark", [marked, lambda f: f])
def test_a_hidden_parameter_is_refused_all_the_same(mark):
    hidden = torch.nn.Parameter(torch.ones(C))
    formula = mark(lambda moments: nw.Affine(moments.mean, hidden * (moments.var + 1e-5).rsqrt(), 0.0))
    with pytest.raises(ValueError, match="not among its parameters"):
        nw.normalize(torch.randn(2, C, 7, requires_grad=True), formula)


@needs_kernels
def test_what_cannot_be_recorded_says_so_once_and_is_right(caplog, runs):
    constant = torch.linspace(1, 2, C)

    @nw.formula
    def hides_a_constant(moments):
        return nw.Affine(moments.mean, constant * (moments.var + 1e-5).rsqrt(), 0.0)

    x = torch.randn(2, C, 7)
    with caplog.at_level(logging.WARNING, "normwise"):
        found = [nw.normalize(x, hides_a_constant) for _ in range(2)]
    want = torch.nn.functional.instance_norm(x) * constant[:, None]
    for y in found:
        torch.testing.assert_close(y, want, rtol=0, atol=2e-6)
    assert [r.message for r in caplog.records if "hides_a_constant runs operator by operator" in r.message] != []
    assert len(caplog.records) == 1
    assert runs == [None, None]


@pytest.mark.parametrize(("what", "name"), [(0.5, "float"), (len, "len"), (int, "int"), (None, "NoneType")])
def test_what_is_marked_is_a_function_of_ones_own(what, name):
    with pytest.raises(TypeError, match=f"formula marks a function .* received {name}; write one that calls it"):
        nw.formula(what)


def emptied(shape):
    t = torch.ones(shape)
    t.untyped_storage().resize_(0)
    return t


TABLE = torch.ones(4, C)
WRONG_RESULTS = {
    "rank": (TABLE.unsqueeze(-1), ValueError, r"must broadcast against \[N, C\] = \[4, 6\], received \[4, 6, 1\]"),
    "channels": (torch.ones(C + 1), ValueError, r"must broadcast against .*received \[7\]"),
    "samples": (torch.ones(5, C), ValueError, r"must broadcast against .*received \[5, 6\]"),
    "no values": (torch.ones(0), ValueError, r"must broadcast against .*received \[0\]"),
    "complex": (TABLE + 0j, TypeError, "must be real, received complex numbers"),
    "a complex number": (1j, TypeError, "must be real, received complex numbers"),
    "another device": (TABLE.to("meta"), ValueError, "must be on the input's device, cpu, received one on meta"),
    "sparse": (TABLE.to_sparse(), TypeError, "must be dense"),
    "eight bits": (TABLE.to(torch.float8_e4m3fn), TypeError, "is of torch.float8_e4m3fn, which nothing computes with"),
    "nothing": (None, TypeError, "must be a tensor or a number, received NoneType"),
    "a list": ([1.0] * C, TypeError, "must be a tensor or a number, received list"),
    "released": (emptied((4, C)), RuntimeError, "was released or cut"),
}
PLACES = {
    "center": lambda moments, t: nw.Affine(t, (moments.var + 1e-5).rsqrt(), 0.0),
    "scale": lambda moments, t: nw.Affine(moments.mean, t, 0.0),
    "shift": lambda moments, t: nw.Affine(moments.mean, (moments.var + 1e-5).rsqrt(), t),
    "threshold": lambda moments, t: nw.Thresholded((moments.var + 1e-5).rsqrt(), 0.0, t),
    "v": lambda moments, t: nw.Gated((moments.var + 1e-5).rsqrt(), 0.0, t),
}


@pytest.mark.parametrize("graph", [False, True], ids=["no graph", "graph"])
@pytest.mark.parametrize("mark", [marked, lambda f: f], ids=["marked", "unmarked"])
@pytest.mark.parametrize("wrong", WRONG_RESULTS)
@pytest.mark.parametrize("place", PLACES)
def test_what_a_formula_may_not_give(place, wrong, mark, graph):
    """Twice, for what ran once is kept."""
    t, error, message = WRONG_RESULTS[wrong]
    formula = mark(lambda moments: PLACES[place](moments, t))
    x = torch.randn(4, C, 5, requires_grad=graph)
    for _ in range(2):
        with pytest.raises(
            error, match=rf"{place} {message}|{message}" if wrong == "released" else f"{place} {message}"
        ):
            nw.normalize(x, formula)


WRONG_STATISTICS = {
    "a tuple": ((TABLE, TABLE), TypeError, r"moments must be Moments\(mean, var, count\), received tuple"),
    "complex": (nw.Moments(TABLE + 0j, TABLE, 1), TypeError, "mean must hold real floating numbers"),
    "channels": (nw.Moments(torch.ones(1, C + 1), TABLE, 1), ValueError, r"mean must broadcast .*received \[1, 7\]"),
    "device": (nw.Moments(TABLE, TABLE.to("meta"), 1), ValueError, "var must be on the input's device, cpu"),
    "released": (nw.Moments(TABLE, emptied((4, C)), 1), RuntimeError, "was released or cut"),
}


@pytest.mark.parametrize("graph", [False, True], ids=["no graph", "graph"])
@pytest.mark.parametrize("mark", [marked, lambda f: f], ids=["marked", "unmarked"])
@pytest.mark.parametrize("wrong", WRONG_STATISTICS)
def test_statistics_that_a_formula_may_not_state(wrong, mark, graph):
    stated, error, message = WRONG_STATISTICS[wrong]
    formula = mark(lambda moments: nw.Affine(moments.mean, (moments.var + 1e-5).rsqrt(), 0.0, stated))
    for _ in range(2):
        with pytest.raises(error, match=message):
            nw.normalize(torch.randn(4, C, 5, requires_grad=graph), formula, return_moments=True)


def test_numbers_of_other_types_are_a_formulas_too():
    x, plain = torch.randn(4, C, 5), (4, C, 1)
    for one in (1, True, torch.tensor(1), TABLE.long(), TABLE > 0, TABLE.half()):
        y = nw.normalize(x, lambda moments, one=one: nw.Affine(moments.mean, one, 0))
        torch.testing.assert_close(y, x - x.mean(2).view(plain), rtol=0, atol=1e-6)


@pytest.mark.parametrize("graph", [False, True], ids=["no graph", "graph"])
def test_constants_elsewhere_are_an_error_after_a_clean_call_too(graph):
    pure, x = marked(between), torch.randn(3, C, 5, requires_grad=graph)
    parameters = torch.ones(C), torch.zeros(C)
    nw.normalize(x, partial(pure, target=KNOWN), *parameters)
    elsewhere = nw.Moments(*(t.to("meta") for t in KNOWN[:2]), 1)
    with pytest.raises(RuntimeError, match="device meta"):
        nw.normalize(x, partial(pure, target=elsewhere), *parameters)
