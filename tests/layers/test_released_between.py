"""What modules and parametrizations compute around the kernels: torch reads it again in the backward pass."""

import pytest
import torch
from torch import nn

import normwise as nw
from normwise.nets.baselines import Scale, Shift
from normwise.surgery.folding.rest import ChannelAffine


def _released(t):
    t.untyped_storage().resize_(0)


def _of_another_size(t):
    t.data = torch.ones(2 * t.numel(), dtype=t.dtype)


def _another_dtype(t):
    t.data = t.data.double()


def _rows():
    return torch.randn(2, 3, 8, requires_grad=True)


def _gated(**options):
    layer, x, gate = nw.GatedRMSNorm(8, **options), _rows() * 1, _rows() * 1
    return lambda: layer(x, gate), {"weight": layer.weight, "gate": gate, "x": x}


def _in_groups(*gate):
    """Of x and the gate it reads views, which keep what they were views of."""
    layer = nw.GatedRMSNorm(8, group_size=4)
    return lambda: layer(_rows(), *gate), {"weight": layer.weight}


def _predicted(kind):
    layer, condition = kind(8, 5), torch.randn(2, 5, requires_grad=True) * 1
    nn.init.normal_(layer.linear.weight)
    return lambda: layer(_rows(), condition), dict(layer.linear.named_parameters()) | {"condition": condition}


def _weights(layer, *names):
    held = dict(layer.named_parameters())
    image = torch.randn(2, 4, 5, 5, requires_grad=True)
    return lambda: layer(image), {name: held[name] for name in names}


def _spade():
    layer, labels = nw.SPADE(4, 3, "instance", hidden=5), torch.rand(2, 3, 7, 7)
    image = torch.randn(2, 4, 5, 5, requires_grad=True)
    held = {name: p for name, p in layer.named_parameters() if name.startswith("mlp")}
    return lambda: layer(image, labels), held


def _around(module, reads_x=True):
    """A module of few numbers; one that multiplies reads x for the gradient of its factor."""
    x, held = _rows() * 1, dict(module.named_parameters()) | dict(module.named_buffers())
    return lambda: module(x), held | ({"x": x} if reads_x else {})


ORIGINAL, GAIN = "parametrizations.weight.original", "parametrizations.weight.0.gain"
CASES = {
    "gated": _gated,
    "gated before": lambda: _gated(norm_before_gate=False),
    "gated in groups": lambda: _in_groups(_rows()),
    "in groups": _in_groups,
    "adaptive layer": lambda: _predicted(nw.AdaptiveLayerNorm),
    "adaptive rms": lambda: _predicted(nw.AdaptiveRMSNorm),
    "WSConv": lambda: _weights(nw.WSConv2d(4, 6, 3), "weight"),
    "ScaledWSConv": lambda: _weights(nw.ScaledWSConv2d(4, 6, 3), "weight", "gain"),
    "standardized": lambda: _weights(nw.weight_standardization(nn.Conv2d(4, 6, 3)), ORIGINAL),
    "scaled": lambda: _weights(nw.scaled_weight_standardization(nn.Conv2d(4, 6, 3)), ORIGINAL, GAIN),
    "spectral": lambda: _weights(nw.spectral_norm(nn.Conv2d(4, 6, 3)), ORIGINAL),
    "spectral vector": lambda: _weights(nw.spectral_norm(nn.Conv2d(4, 6, 3), "bias"), "parametrizations.bias.original"),
    "SPADE": _spade,
    "skip gain": lambda: _around(nw.nets.SkipGain(0.5)),
    "skip gain and constant": lambda: _around(nw.nets.SkipGain(0.5, 0.2)),
    "scale": lambda: _around(Scale()),
    "shift": lambda: _around(Shift(), reads_x=False),
    "folded scale and shift": lambda: _around(ChannelAffine(torch.ones(8), torch.zeros(8), -1, trained=True)),
    "operator": lambda: _weights(
        nw.spectral_norm(nn.Conv2d(4, 6, 3, padding=1), operator=True, input_size=5), ORIGINAL
    ),
}
TARGETS = [(case, name) for case, make in CASES.items() for name in make()[1]]


@pytest.mark.parametrize("change", [_released, _of_another_size, _another_dtype])
@pytest.mark.parametrize(("case", "name"), TARGETS)
def test_what_the_backward_pass_reads(case, name, change):
    call, read = CASES[case]()
    y = call()
    change(read[name])
    with pytest.raises(RuntimeError, match=r"that the backward pass needs is|was released|do not assign to its .data"):
        y.backward(torch.randn_like(y))


@pytest.mark.parametrize(("case", "name"), TARGETS)
def test_what_the_forward_pass_reads(case, name):
    call, read = CASES[case]()
    _released(read[name])
    with pytest.raises(RuntimeError, match="was released"):
        call()
