"""`swap` on a MobileNetV2 that was trained on ImageNet, with photographs."""

import copy

import pytest
import torch
from real_nets import mobilenet, photographs
from torch import nn

import normwise as nw


@pytest.fixture(scope="module")
def net():
    return mobilenet()


@pytest.fixture(scope="module")
def x():
    return photographs(size=160, crops=2)


def agreement(net, x, wanted):
    with torch.no_grad():
        return (net.eval()(x).argmax(1) == wanted).double().mean().item()


@pytest.mark.parametrize("norm", ["group", "layer"])
def test_at_zero_all_52_layers_are_the_old_ones_and_no_formula_keeps_the_net(net, x, norm):
    with torch.no_grad():
        expected = net(x)
    wanted = expected.argmax(1)
    model = copy.deepcopy(net)
    change = nw.swap(model, norm, example_inputs=x[:4])
    assert [row.outcome for row in change.rows] == ["swapped"] * 52
    model.classifier[0].p = 0.0  # dropout
    with torch.no_grad():
        assert torch.equal(model.train()(x), expected)
    assert agreement(model, x, wanted) == 1
    change.advance(1)
    assert change.report().drift > 0.3
    assert agreement(model, x, wanted) < 0.5  # the docs promise no more
    change.undo()
    copied = copy.deepcopy(net)
    nw.swap(copied, norm, start="copy")
    assert agreement(copied, x, wanted) < 0.1
    with torch.no_grad():
        model.classifier[0].p = 0.2
        assert torch.equal(model.eval()(x), expected)


def test_recalibration_brings_a_wrecked_net_back_and_warns_of_few_samples(net, x):
    wanted = net(x).argmax(1)
    model = copy.deepcopy(net)
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.reset_running_stats()
    assert agreement(model, x, wanted) < 0.1
    with pytest.warns(UserWarning, match="Few samples"):
        nw.recalibrate(model, x.split(8))
    assert agreement(model, x, wanted) > 0.2
