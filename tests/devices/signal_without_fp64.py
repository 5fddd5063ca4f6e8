"""Run by test_without_fp64.py: what is measured, predicted and diagnosed, against the same on the CPU."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

import normwise as nw
from normwise import nets
from normwise.layers import NORMALIZERS
from normwise.layers.registry import map_normalizers
from normwise.signal.records import NUMBERS

from .there import register, there

NORMS = [name for name in map_normalizers() if name not in ("none", "sync")]
ROWS = [name for name, row in NORMALIZERS.items() if name.startswith("token")]


@pytest.fixture(autouse=True)
def _registered():
    register()


def net_of(norm):
    if norm in ROWS:
        net = nn.Sequential(nn.Linear(8, 12), NORMALIZERS[norm].make(12, 1, None), nn.PReLU(), nn.Linear(12, 4))
    else:
        net = nets.resnet(8, norm=norm, width=4, num_classes=5)
    with torch.no_grad():  # branches that start at 0 lie on kinks, on one side or the other by the rounding
        for parameter in net.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return net


def input_of(norm):
    x = torch.randn(4, 5, 8) if norm in ROWS else torch.randn(4, 3, 8, 8)
    return x + 1


def assert_same_trace(found, wanted):
    assert len(found.taps) == len(wanted.taps)
    for got, want in zip(found.taps, wanted.taps, strict=True):
        numbers = [[getattr(tap, name) or 0.0 for name in NUMBERS] for tap in (got, want)]
        assert numbers[0] == pytest.approx(numbers[1], rel=1e-4, abs=1e-6), want.name
        if want.histogram is not None:
            assert sum(got.histogram.counts) == sum(want.histogram.counts)
        same = {name: getattr(want, name) for name in (*NUMBERS, "histogram")}
        assert dataclasses.replace(got, **same) == want


@pytest.mark.parametrize("norm", [*NORMS, *ROWS])
def test_trace(norm):
    net, x = net_of(norm), input_of(norm)
    wanted = nw.trace(net, x, backward=True, histograms=True)
    found = nw.trace(there(net), there(x), backward=True, histograms=True)
    assert_same_trace(found, wanted)


@pytest.mark.parametrize("batch_statistics", [True, False])
@pytest.mark.parametrize("norm", [*NORMS, *ROWS])
def test_predict(norm, batch_statistics):
    net, x = net_of(norm).eval(), input_of(norm)
    other = there(net)
    before = {name: id(t) for name, t in [*other.named_parameters(), *other.named_buffers()]}
    for given in (x, tuple(x.shape)):
        wanted = nw.predict(net, given, batch_statistics=batch_statistics)
        assert_same_trace(nw.predict(other, there(given), batch_statistics=batch_statistics), wanted)
    assert {name: id(t) for name, t in [*other.named_parameters(), *other.named_buffers()]} == before


@pytest.mark.parametrize("norm", [*NORMS, *ROWS])
def test_diagnose(norm):
    net, x = net_of(norm), input_of(norm)
    wanted, found = nw.diagnose(net, x), nw.diagnose(there(net), there(x))
    assert [(f.rule, f.module) for f in found] == [(f.rule, f.module) for f in wanted]


def test_what_fp32_cannot_square():
    """Vanishing and exploding activations are measured in fp64, which the device leaves to the CPU."""
    net = nn.Sequential(nn.Linear(8, 8), nn.Identity())
    for scale in (1e-25, 1e25):
        x = torch.randn(16, 8) * scale
        wanted = nw.trace(net[1:], x, histograms=True, backward=False)
        found = nw.trace(net[1:], there(x), histograms=True, backward=False)
        assert found.taps[0].variance == pytest.approx(wanted.taps[0].variance, rel=1e-6)
        assert found.taps[0].variance == pytest.approx(x.double().var(0, correction=0).mean().item(), rel=1e-6)


def test_several_batches_are_pooled():
    net, batches = net_of("batch"), [input_of("batch") for _ in range(3)]
    wanted = nw.trace(net, batches, backward=False)
    assert_same_trace(nw.trace(there(net), [there(x) for x in batches], backward=False), wanted)
