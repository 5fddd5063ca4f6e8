"""EfficientNets against published sizes and timm's models."""

import pytest
import torch
from libraries import timm_model
from torch import nn

from normwise import nets

# torchvision's and timm's documentation.
PARAMETERS = {"b0": 5_288_548, "b1": 7_794_184, "b2": 9_109_994, "b3": 12_233_232, "b4": 19_341_616, "b5": 30_389_784}


@pytest.mark.parametrize("variant", PARAMETERS)
def test_parameters_are_the_published_ones(variant):
    with torch.device("meta"):
        net = nets.efficientnet(variant)
    assert nets.count_parameters(net) == PARAMETERS[variant]


def test_operations_are_the_published_ones():
    assert nets.count_macs(nets.efficientnet("b0"), (1, 3, 224, 224)) / 1e9 == pytest.approx(0.39, abs=0.005)


def test_outputs_are_timms():
    theirs = timm_model("efficientnet_b0", num_classes=7).double()
    ours = nets.efficientnet("b0", 7).double().eval()
    state = ours.state_dict()
    values = theirs.state_dict().values()
    assert len(values) == len(state)
    ours.load_state_dict({name: value.reshape(state[name].shape) for name, value in zip(state, values, strict=True)})
    for layer in (*ours.modules(), *theirs.modules()):
        if isinstance(layer, nn.BatchNorm2d):
            layer.eps = 1e-3
    x = torch.randn(2, 3, 64, 71, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x), rtol=1e-9, atol=1e-11)


def test_a_small_net_with_another_normalizer():
    net = nets.efficientnet("b0", 10, 1, norm="group:4", stem="small", width=0.25)
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in net.modules())
    assert net(torch.randn(2, 1, 8, 8)).shape == (2, 10)
    assert nets.efficientnet("b0").dropout.p == 0.2
    bare = nets.efficientnet("b0", 10, norm="none", width=0.25)
    assert all(layer.bias is not None for layer in bare.modules() if isinstance(layer, nn.Conv2d))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"variant": "b9"}, "variant is 'b0' or"),
        ({"stem": "tiny"}, "the stem is"),
        ({"width": 0.0}, "the factor of the channels must be positive"),
        ({"num_classes": 0}, "num_classes must be a positive integer"),
    ],
)
def test_wrong_arguments(arguments, said):
    with pytest.raises(ValueError, match=said):
        nets.efficientnet(**arguments)
