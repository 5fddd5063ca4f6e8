"""Formulas whose code shows that they are pure are recorded without a mark; others never are."""

import sys
import time
from functools import partial
from types import FunctionType

import pytest
import torch
from marks import needs_kernels

import normwise as nw
from normwise import Affine
from normwise.core import evident
from normwise.core.evident import with_evident_mark
from normwise.operations.formula import recorded

C = 6
NUMBER, TENSOR = 1e-5, torch.linspace(0.5, 2, C)


def rooted(moments, weight, bias=None, *, eps=1e-5):
    mean, power = moments.mean, moments.over_channels().var + moments.var
    if bias is None:
        return nw.Affine(mean, weight * torch.rsqrt(power + eps), 0.0)
    return nw.Affine(mean, weight * (power + eps).rsqrt(), -bias)


def gated(moments, weight, bias):
    return nw.Gated(weight * (moments.var + 1e-5).rsqrt(), bias, weight)


def reads_a_number(moments):
    return nw.Affine(moments.mean, (moments.var + NUMBER).rsqrt(), 0.0)


def reads_a_tensor(moments):
    return nw.Affine(moments.mean, TENSOR * (moments.var + 1e-5).rsqrt(), 0.0)


def reads_the_time(moments):
    return nw.Affine(moments.mean, (moments.var + time.time()).rsqrt(), 0.0)


def draws(moments):
    return nw.Affine(moments.mean, (moments.var + torch.rand(())).rsqrt(), 0.0)


def branches_on_a_value(moments):
    return nw.Affine(moments.mean, 1.0 if moments.var.sum() > 1 else 2.0, 0.0)


def takes_a_value_out(moments):
    return nw.Affine(moments.mean, moments.var.sum().item(), 0.0)


def writes(moments, seen=None):
    seen.last = moments
    return nw.Affine(moments.mean, 1.0, 0.0)


def has_a_function_inside(moments):
    return nw.Affine(*(part for part in (moments.mean, moments.var, 0.0)))


def keeps_a_list(moments, seen=[]):  # noqa: B006
    seen.append(moments)
    return nw.Affine(moments.mean, 1.0, 0.0)


def changes_in_place(moments):
    return nw.Affine(moments.mean, moments.var.add_(1e-5).rsqrt(), 0.0)


def adds_to_an_argument(moments, weight):
    weight += 1
    return nw.Affine(moments.mean, weight, 0.0)


def writes_into_an_argument(moments, weight):
    return nw.Affine(moments.mean, torch.add(moments.var, 1.0, out=weight), 0.0)


def calls_a_function_of_python(moments):
    setattr(nw, "last", moments.mean)  # noqa: B010
    return nw.Affine(moments.mean, 1.0, 0.0)


def settings_of_torch(moments):
    return nw.Affine(moments.mean, 2.0 if torch.is_grad_enabled() else 1.0, 0.0)


def results(formula, parameters):
    generator = torch.Generator().manual_seed(0)
    x = (torch.randn(3, C, 5, 4, generator=generator) + 3).requires_grad_()
    given = [torch.rand(C, generator=generator).add(0.5).requires_grad_() for _ in range(parameters)]
    y = nw.normalize(x, formula, *given)
    return [y.detach(), *torch.autograd.grad(y, [x, *given], torch.randn(y.shape, generator=generator))]


@needs_kernels
@pytest.mark.parametrize(
    ("formula", "parameters"),
    [
        (rooted, 1),
        (rooted, 2),
        (partial(rooted, eps=1e-2), 1),
        (gated, 2),
        (lambda m, w: nw.Affine(m.mean, w * torch.where(m.var > 1, m.var, m.var * 0 + 1).rsqrt(), 0.0), 1),
    ],
)
def test_an_evident_formula_is_recorded_and_gives_the_same(formula, parameters, runs):
    found = results(formula, parameters)
    want = results(lambda *arguments: formula(*arguments), parameters)
    assert [run is not None for run in runs] == [True, False]
    for got, expected in zip(found, want, strict=True):
        torch.testing.assert_close(got, expected, rtol=2e-6, atol=2e-6 * float(expected.abs().max()))


@pytest.mark.parametrize(
    "formula",
    [
        *(reads_a_number, reads_a_tensor, reads_the_time, draws, branches_on_a_value, takes_a_value_out, writes),
        *(
            has_a_function_inside,
            keeps_a_list,
            changes_in_place,
            adds_to_an_argument,
            writes_into_an_argument,
            calls_a_function_of_python,
            settings_of_torch,
            len,
            torch.nn.ReLU(),
        ),
        partial(rooted, eps=TENSOR),
        partial(rooted, TENSOR),
        partial(reads_a_number),
    ],
)
def test_any_other_formula_stays_what_it_is(formula):
    assert with_evident_mark(formula) is formula


def test_a_name_without_a_value_is_not_taken_for_the_package(monkeypatch):
    """In torch.package no module is called normwise."""
    monkeypatch.setattr(evident, "_copies", {})
    monkeypatch.delitem(sys.modules, "normwise")
    function = FunctionType((lambda m: Affine(m.mean, abs(-1.0), 0.0)).__code__, {"Affine": Affine})
    assert with_evident_mark(function) is function


def test_what_a_surrounding_function_changes_is_seen():
    scale = 1.0

    def formula(moments):
        return nw.Affine(moments.mean, scale, 0.0)

    x = torch.randn(2, C, 7)
    once = nw.normalize(x, formula)
    scale = 3.0
    torch.testing.assert_close(nw.normalize(x, formula), 3 * once)


def test_what_a_module_changes_is_seen(monkeypatch):
    x = torch.randn(2, C, 7)
    nw.normalize(x, reads_a_number)
    monkeypatch.setitem(globals(), "NUMBER", 3.0)
    want = (x - x.mean(-1, keepdim=True)) / (x.var(-1, correction=0, keepdim=True) + 3).sqrt()
    torch.testing.assert_close(nw.normalize(x, reads_a_number), want)


@needs_kernels
def test_a_lambda_of_every_call_is_recorded_once(monkeypatch):
    monkeypatch.setattr(recorded, "_kinds", {})
    x = torch.randn(2, C, 7)
    for _ in range(3):
        nw.normalize(x, lambda moments: nw.Affine(moments.mean, (moments.var + 1e-4).rsqrt(), 0.0))
    assert len(recorded._kinds) == 1


def test_equal_defaults_of_other_types_are_other_formulas():
    def formula(m, *, power):
        return nw.Affine(m.mean, power, 0.0)

    here = {"nw": nw}
    x = torch.randn(2, C, 7)
    for power in (1, 1.0, True, 2):
        copy = with_evident_mark(FunctionType(formula.__code__, here, "formula"))
        other = FunctionType(formula.__code__, here, "formula")
        other.__kwdefaults__ = {"power": power}
        marked = with_evident_mark(other)
        assert marked is not copy
        assert type(marked.__kwdefaults__["power"]) is type(power)
        torch.testing.assert_close(nw.normalize(x, other), float(power) * (x - x.mean(-1, keepdim=True)))


def test_a_formula_keeps_its_name_and_is_left_alone():
    copy = with_evident_mark(rooted)
    assert (copy.__name__, copy.__module__) == (rooted.__name__, rooted.__module__)
    assert copy is with_evident_mark(rooted)
    assert vars(rooted) == {}
