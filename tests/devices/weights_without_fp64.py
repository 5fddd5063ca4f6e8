"""Run by test_without_fp64.py: normalized weights, optimizers and nets, against themselves on the CPU."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import normwise as nw
from normwise import nets

from .there import assert_same, register, step, there

WEIGHTS = {
    "ws": lambda: nw.WSConv2d(3, 4, 3),
    "scaled ws": lambda: nw.ScaledWSConv2d(3, 4, 3, gamma="relu"),
    "parametrized ws": lambda: nw.weight_standardization(nn.Conv2d(3, 4, 3)),
    "parametrized scaled ws": lambda: nw.scaled_weight_standardization(nn.ConvTranspose2d(3, 4, 3)),
    "spectral": lambda: nw.spectral_norm(nn.Conv2d(3, 4, 3)),
    "operator": lambda: nw.spectral_norm(nn.Conv2d(3, 4, 3), operator=True),
    "exact operator": lambda: nw.spectral_norm(
        nn.Conv2d(3, 4, 3, padding=1, padding_mode="circular"), operator=True, input_size=6
    ),
}
NETS = {
    "resnet": lambda: nets.resnet(8, norm="batch", width=4, num_classes=5),
    "resnet, switchable": lambda: nets.resnet(8, norm="switchable", width=4, num_classes=5),
    "nf_resnet": lambda: nets.nf_resnet(8, width=4, num_classes=5),
}


@pytest.fixture(autouse=True)
def _registered():
    register()


def maps(seed=0, side=6):
    return torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("name", WEIGHTS)
def test_weights(name, training):
    layer = WEIGHTS[name]().train(training)
    other, x = there(layer), maps()
    cotangent = torch.randn_like(layer(x))
    for _ in range(3):  # the power iteration goes on from step to step
        wanted, found = step(layer, x, cotangent), step(other, there(x), there(cotangent))
        assert_same(found, wanted)
        for model in (layer, other):
            torch.optim.SGD(model.parameters(), lr=0.1).step()
            model.zero_grad()


@pytest.mark.parametrize("name", WEIGHTS)
def test_baked(name):
    layer = WEIGHTS[name]()
    layer(maps())
    other = there(layer)
    assert nw.bake(layer.eval()) == nw.bake(other.eval())
    assert_same(dict(other.state_dict()), dict(layer.state_dict()))


@pytest.mark.parametrize("make", [lambda: nn.Conv2d(3, 4, 3), WEIGHTS["spectral"]], ids=["plain", "spectral"])
def test_sigma(make):
    layer = make()
    assert nw.sigma(there(layer)) == pytest.approx(nw.sigma(layer), rel=1e-6)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("name", NETS)
def test_nets(name, training):
    net = NETS[name]().train(training)
    x, cotangent = maps(side=16), torch.randn(2, 5)
    assert_same(step(there(net), there(x), there(cotangent)), step(copy.deepcopy(net), x, cotangent), 1e-4)


def test_shares_of_a_mixture():
    layer = nw.SwitchableNorm2d(3)
    assert there(layer).mix() == layer.mix()


def test_adaptive_gradient_clipping():
    net = NETS["nf_resnet"]()
    x, cotangent = maps(side=16), 30 * torch.randn(2, 5)
    results = []
    for model, place in ((copy.deepcopy(net), lambda t: t), (there(net), there)):
        step(model, place(x), place(cotangent))
        report = nw.adaptive_clip_grad_(model, 0.01)
        clipped = {name: p.grad.clone() for name, p in model.named_parameters()}
        model.zero_grad()
        optimizer = torch.optim.SGD(nw.param_groups(model, weight_decay=1e-2), lr=0.1, momentum=0.9)
        wrapped = nw.AdaptiveGradientClipping(optimizer, model)
        for _ in range(2):
            model.zero_grad()
            model(place(x)).backward(place(cotangent))
            wrapped.step()
        results.append((report, clipped, dict(model.named_parameters())))
    (report, clipped, trained), (their_report, their_clipped, their_trained) = results
    assert {name: int(n.sum()) for name, n in their_report.counts.items()} == {
        name: int(n.sum()) for name, n in report.counts.items()
    }
    assert_same(their_clipped, clipped, 1e-4)
    assert_same(their_trained, trained, 1e-4)
