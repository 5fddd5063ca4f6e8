"""Arguments of the normalizer-free networks: padding, activations and their gains, errors."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from normwise import nets
from normwise.core.activations import ACTIVATIONS, function_gain, gain
from normwise.nets.nf_parts import MODULES, OFFICIAL_GAMMA, SamePad2d


@pytest.mark.parametrize("kernel", [3, 7])
@pytest.mark.parametrize("side", range(1, 12))
def test_same_padding_gives_half_the_side_rounded_up(side, kernel):
    x = torch.ones(1, 1, side, side + 1)
    y = F.conv2d(SamePad2d(kernel, 2)(x), torch.ones(1, 1, kernel, kernel), stride=2)
    assert y.shape[2:] == (-(-side // 2), -(-(side + 1) // 2))


@pytest.mark.parametrize("padding", ["same", "symmetric"])
def test_padding_option(padding):
    net = nets.nf_resnet50(padding=padding, width=4)
    pads = [m for m in net.modules() if isinstance(m, SamePad2d)]
    assert len(pads) == (5 if padding == "same" else 0)  # the stem, its pooling, three strided blocks
    assert net(torch.zeros(1, 3, 65, 64)).shape == (1, 1000)


def test_the_same_values_enter_every_window_with_both_paddings_on_odd_sides():
    same, symmetric = (nets.nf_resnet(8, width=4, padding=p, skip_gain=1.0).eval() for p in ("same", "symmetric"))
    symmetric.load_state_dict(same.state_dict())
    odd, even = torch.randn(1, 3, 9, 9), torch.randn(1, 3, 8, 8)
    torch.testing.assert_close(same(odd), symmetric(odd))
    assert not torch.allclose(same(even), symmetric(even), rtol=1e-3)


def test_modules_are_the_named_activations():
    assert MODULES.keys() == ACTIVATIONS.keys()
    z = torch.linspace(-6, 7, 301, dtype=torch.float64)
    for name, make in MODULES.items():
        torch.testing.assert_close(make()(z), ACTIVATIONS[name].function(z), msg=name)


@pytest.mark.parametrize("name", OFFICIAL_GAMMA)
def test_official_gains_are_estimates_of_the_exact_ones(name):
    assert OFFICIAL_GAMMA[name] == pytest.approx(gain(name), rel=2e-3)
    official, exact = (nets.nf_resnet(8, activation=name, gamma=gamma) for gamma in ("official", "exact"))
    assert official.stages[0][0].branch.conv2.gamma == OFFICIAL_GAMMA[name]
    assert exact.stages[0][0].branch.conv2.gamma == gain(name)
    assert (official.gamma, exact.gamma) == (OFFICIAL_GAMMA[name], gain(name))


def test_any_activation_has_its_exact_gain():
    net = nets.nf_resnet(8, activation=nn.PReLU)
    slope = 0.25
    second, mean = (1 + slope**2) / 2, (1 - slope) / math.sqrt(2 * math.pi)
    assert net.gamma == pytest.approx((second - mean**2) ** -0.5, rel=1e-9)
    assert isinstance(net.stages[0][0].activation, nn.PReLU)
    assert nets.nf_resnet(8, activation=lambda: nn.LeakyReLU(1.0)).gamma == pytest.approx(1, rel=1e-12)


def test_gain_of_a_constant():
    with pytest.raises(ValueError, match="variance over standard normal inputs must be positive, it is 0"):
        function_gain(torch.zeros_like)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: nets.nf_resnet(7), r"nf_resnet\(depth=7\): the depth must be 18, 26, 34, 50"),
        (lambda: nets.nf_resnet(8, activation="swish"), "the names are relu, relu6"),
        (lambda: nets.nf_resnet(8, activation="mish", gamma="official"), "the official table has relu"),
        (lambda: nets.nf_resnet(8, activation=nn.PReLU, gamma="official"), "write gamma='exact'"),
        (lambda: nets.nf_resnet(8, gamma="paper"), "the gamma is 'exact' or 'official'"),
        (lambda: nets.nf_resnet(8, padding="valid"), "the padding is 'same' or 'symmetric'"),
        (lambda: nets.nf_resnet(8, stem="tiny"), "the stem is 'small' or 'imagenet'"),
        (lambda: nets.nf_resnet(8, num_classes=0), "num_classes must be a positive integer"),
        (lambda: nets.nf_resnet(8, in_channels=1.5), "in_channels must be a positive integer"),
        (lambda: nets.nf_resnet(8, width=-2), "width must be a positive integer"),
        (lambda: nets.nf_resnet(8, stochastic_depth=3.5), "the share of dropped branches is 0 <= p <= 1"),
        (lambda: nets.nf_resnet(8, alpha=0.0), "the factor of the branches must be positive"),
        (lambda: nets.nf_resnet(50, width=1), "fan-in of 1 weight"),
        (lambda: nets.nf_regnet("B0"), "the variant is 'b0' or 'b1'"),
        (lambda: nets.nf_regnet("b0", stem="tiny"), "the stem is 'small' or 'imagenet'"),
        (lambda: nets.nfnet("f8"), "the variant is 'f0' or 'f1'"),
    ],
)
def test_bad_arguments(build, message):
    with torch.device("meta"), pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize("activation", [nn.ReLU(), 3, lambda: torch.relu])
def test_bad_activation(activation):
    with pytest.raises(TypeError, match="that makes the activation's module"):
        nets.nf_resnet(8, activation=activation)
