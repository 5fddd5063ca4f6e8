"""Gains and singular vectors that do not fit the weight are refused, whatever put them there."""

import pytest
import torch
from torch import nn

import normwise as nw
from normwise.nets import SkipGain

WRONG = {
    "one": lambda t: t.new_ones(1),
    "more": lambda t: t.new_ones(len(t) + 1),
    "column": lambda t: t.new_ones(len(t), 1),
    "complex": lambda t: t + 1j,
    "int64": lambda t: t.long(),
    "meta": lambda t: t.to("meta"),
    "sparse": lambda t: t.to_sparse(),
}


@pytest.mark.parametrize("kind", WRONG)
@pytest.mark.parametrize("name", ["_u", "_v", "_image", "_coimage"])
def test_vectors_of_a_spectral_norm(name, kind):
    layer = nw.spectral_norm(nn.Linear(4, 5))
    norm = layer.parametrizations.weight[0]
    norm._buffers[name] = WRONG[kind](getattr(norm, name))
    with pytest.raises((ValueError, TypeError), match=f"spectral_norm: {name} must"):
        layer(torch.randn(3, 4))


@pytest.mark.parametrize("kind", WRONG)
def test_gains(kind):
    convolution = nw.ScaledWSConv2d(4, 5, 3)
    parametrized = nw.scaled_weight_standardization(nn.Conv2d(4, 5, 3))
    for layer, holder in ((convolution, convolution), (parametrized, parametrized.parametrizations.weight[0])):
        holder._parameters["gain"] = WRONG[kind](holder.gain.detach())
        with pytest.raises((ValueError, TypeError), match="gain must"):
            layer(torch.randn(2, 4, 6, 6))


@pytest.mark.parametrize("kind", [kind for kind in WRONG if kind != "one"])
def test_the_gain_of_a_branch(kind):
    gain = SkipGain()
    gain._parameters["gain"] = WRONG[kind](gain.gain.detach())
    with pytest.raises((ValueError, TypeError), match="SkipGain: gain must"):
        gain(torch.randn(2, 3))
