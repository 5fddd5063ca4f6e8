"""`assert_signal`: what passes, and what an assertion that fails says."""

import pytest
import torch
from torch import nn

from normwise import nets
from normwise.signal import Tap, Trace, assert_signal, predict

SHAPE = (16, 3, 32, 32)


def test_a_normalizer_free_net_stays_within_the_bounds():
    net = nets.nf_resnet26(stem="small")
    measured = assert_signal(net, SHAPE)
    assert len(measured.blocks) == 8
    assert measured.blocks[2].variance != pytest.approx(1, abs=0.02)  # gains of 1, not their 0
    assert_signal(predict(net, SHAPE, skip_gain=1.0))


def test_a_net_without_normalizers_is_named_with_its_numbers_and_remedies():
    with pytest.raises(AssertionError) as failure:
        assert_signal(nets.resnet(50, norm="none", preactivation=True, fan="fan_in"), SHAPE)
    lines = str(failure.value).splitlines()
    assert lines[0].startswith("assert_signal: ResNet is out of bounds at ")
    assert lines[0].endswith(" of 32 places.")
    assert any(line.startswith("  block stages.stage1.") and "above 2" in line for line in lines)
    assert any("SkipInit" in line for line in lines)
    assert any("ScaledWSConv2d" in line for line in lines)
    assert any(line.startswith("  and ") for line in lines)


def tap(kind, name="a", **numbers):
    return Tap(name, kind, "Block", (2, 3), **({"squared_mean": 0.0, "variance": 1.0} | numbers))


BAD = {
    "high": (tap("block", variance=2.5), r"block a \(Block\): variance 2.5, above 2\nThe variance grows"),
    "low": (tap("branch", variance=0.1), r"branch a \(Block\): variance 0.1, below 0.5\nThe signal dies out"),
    "mean": (tap("block", squared_mean=0.4), "squared mean 0.4, above 0.1\nThe mean shifts"),
    "broken": (tap("block", nonfinite=3), "3 values NaN or infinite\nValues are"),
    "nan": (tap("block", variance=float("nan")), "variance nan, below 0.5"),
}


@pytest.mark.parametrize("case", BAD)
def test_each_violation(case):
    bad, words = BAD[case]
    with pytest.raises(AssertionError, match=words):
        assert_signal(Trace("Net", (tap("block", "fine"), bad)))


def test_bounds_that_are_left_out_and_kinds():
    measured = Trace("Net", (tap("block"), tap("layer", "b", variance=50.0, squared_mean=7.0)))
    assert_signal(measured)
    with pytest.raises(AssertionError, match="layer b"):
        assert_signal(measured, kinds=["layer"])
    assert_signal(measured, variance=None, squared_mean=None, kinds=["layer"])
    assert_signal(Trace("Net", (tap("layer", variance=1.5),)))


def test_plain_nets_are_judged_by_their_layers():
    net = nn.Sequential(nn.Linear(64, 64, bias=False), nn.Linear(64, 64, bias=False))
    for layer in net:
        nn.init.orthogonal_(layer.weight)
    assert_signal(net, torch.randn(256, 64))
    nn.init.orthogonal_(net[1].weight, gain=3)
    with pytest.raises(AssertionError, match=r"at 1 of 2 places.\n  layer 1 \(Linear\): variance"):
        assert_signal(net, torch.randn(256, 64))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"variance": (2, 1)}, "the lowest and the highest"),
        ({"squared_mean": -1}, "must not be negative"),
        ({"kinds": ["blocks"]}, "the kinds are 'block', 'branch' and 'layer'"),
        ({"kinds": ["branch"]}, "has no branch to check"),
    ],
)
def test_bounds_that_make_no_sense(options, words):
    with pytest.raises(ValueError, match=words):
        assert_signal(Trace("Net", (tap("block"),)), **options)
