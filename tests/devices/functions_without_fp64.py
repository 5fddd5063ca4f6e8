"""Run by test_without_fp64.py: every function of normwise.functional, against itself in fp64 on the CPU."""

from __future__ import annotations

import functional_cases as cases
import pytest
import torch

import normwise.functional as nf

from .there import assert_same, register, there

TABLES = ("WEIGHT", "BIAS", "V", "GATE", "MIX", "ALPHA", "SHIFT", "STYLE", "RUNNING")


@pytest.fixture(autouse=True)
def _registered():
    register()


@pytest.fixture
def tables_there(monkeypatch):
    """From now on the cases read their parameters on the device."""
    return lambda: [monkeypatch.setattr(cases, name, there(getattr(cases, name))) for name in TABLES]


def value_and_gradient(name, x, cotangent, statistics=None):
    x = x.clone().requires_grad_()
    y = cases.outputs(name)(x) if statistics is None else cases.POOLED[name][0](x, statistics)[0]
    y.backward(cotangent)
    return {"y": y.detach(), "x.grad": x.grad}


@pytest.mark.parametrize("name", cases.EVERY)
def test_value_and_gradient(name, tables_there):
    x, cotangent = cases.data(), cases.data(1)
    wanted = value_and_gradient(name, x, cotangent)
    tables_there()
    assert_same(value_and_gradient(name, there(x), there(cotangent)), wanted)


@pytest.mark.parametrize("name", cases.POOLED)
def test_given_statistics(name, tables_there):
    x, cotangent = cases.data(), cases.data(1)
    wanted = value_and_gradient(name, x, cotangent, cases.RUNNING)
    tables_there()
    assert_same(value_and_gradient(name, there(x), there(cotangent), cases.RUNNING), wanted)


@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("name", cases.POOLED)
def test_statistics_and_their_update(name, momentum, tables_there):
    def statistics(x):
        found = cases.POOLED[name][0](x)[1]
        new = nf.update_statistics(cases.RUNNING, found, momentum)
        return {**found._asdict(), **{f"new {field}": t for field, t in new._asdict().items()}}

    x = cases.data()
    wanted = statistics(x)
    tables_there()
    found = statistics(there(x))
    assert found["mean"].dtype == torch.float32
    assert_same(found, wanted)
