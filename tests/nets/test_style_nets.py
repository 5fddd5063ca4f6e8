"""The nets that paint, against NumPy's and torch's own."""

import copy

import numpy as np
import pytest
import torch
from libraries import torchvision
from torch import nn

from normwise.nets import AdaptiveStyleNet, StyleNet, vgg_trunk
from normwise.nets.vgg import up_to


def planes(x):
    """Mean and biased deviation of each plane, fp64."""
    x = x.double().numpy()
    return x.mean((2, 3), keepdims=True), x.std((2, 3), keepdims=True)


@pytest.mark.parametrize("norm", ["instance", "batch", "group:2", "none", "filter-response"])
def test_a_picture_comes_out_at_its_size_and_in_range(norm):
    y = StyleNet(norm, width=4, blocks=1)(torch.rand(2, 3, 16, 28))
    assert y.shape == (2, 3, 16, 28)
    assert 0 < y.min() < y.max() < 1


def test_with_instance_norm_the_contrast_of_the_content_does_not_matter():
    """The first maps are affine in the picture, and the normalizer behind them takes scale and shift away."""
    net, x = StyleNet(width=4, blocks=1).double(), torch.rand(1, 3, 32, 32, dtype=torch.float64)
    for layer in net.modules():
        if isinstance(layer, nn.InstanceNorm2d):
            layer.eps = 0.0
    torch.testing.assert_close(net(0.3 + 0.25 * x), net(x), rtol=0, atol=1e-10)
    batch = StyleNet("batch", width=4, blocks=1).double().eval()
    assert (batch(0.3 + 0.25 * x) - batch(x)).abs().max() > 1e-3


def test_a_blend_of_styles_is_the_net_of_the_blended_tables():
    net = StyleNet(width=4, blocks=1, styles=3)
    for layer in net.modules():
        if hasattr(layer, "num_conditions"):
            nn.init.normal_(layer.weight)
            nn.init.normal_(layer.bias)
    x, weights = torch.rand(2, 3, 16, 16), torch.tensor([0.2, 0.0, 0.8])
    expected = net(x, weights.repeat(2, 1))
    torch.testing.assert_close(net.for_style(weights)(x), expected)
    assert (net.for_style(0)(x) - expected).abs().max() > 1e-3


def test_the_gradient_of_a_style_reaches_its_own_row_alone():
    net = StyleNet(width=2, blocks=1, styles=3)
    (net(torch.rand(2, 3, 16, 16), torch.tensor([2, 2])) * torch.randn(2, 3, 16, 16)).sum().backward()
    grad = net.down[0].norm.weight.grad
    assert bool((grad[:2] == 0).all())
    assert bool((grad[2] != 0).any())


@pytest.mark.parametrize(
    ("styles", "condition", "said"),
    [(None, torch.tensor([0]), "of one style takes no condition"), (2, None, "of 2 styles takes a condition")],
)
def test_a_condition_that_does_not_belong(styles, condition, said):
    with pytest.raises(ValueError, match=said):
        StyleNet(width=2, blocks=0, styles=styles)(torch.rand(1, 3, 16, 16), condition)


def test_one_style_has_no_other():
    with pytest.raises(ValueError, match="this net has one style"):
        StyleNet(width=2, blocks=0).for_style(0)


class TestAdaptive:
    """Any style by the statistics of its maps."""

    net = AdaptiveStyleNet(vgg_trunk((1, 1, 1), width=4), "relu3_1")
    content, style = torch.rand(2, 3, 16, 24), torch.rand(2, 3, 20, 12)

    @pytest.mark.parametrize("strength", [0.0, 0.4, 1.0])
    def test_against_the_paper_in_numpy(self, strength):
        maps, other = self.net.encoder(self.content), self.net.encoder(self.style)
        (mean, std), (mean_s, std_s) = planes(maps), planes(other)
        adapted = std_s * (maps.double().numpy() - mean) / np.sqrt(std**2 + 1e-5) + mean_s
        blended = strength * adapted + (1 - strength) * maps.double().numpy()
        expected = self.net.decoder(torch.from_numpy(blended).float())
        torch.testing.assert_close(self.net(self.content, self.style, strength), expected, rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize("strength", [0.0, 0.4, 1.0])
    def test_the_net_of_one_style(self, strength):
        style = self.net.statistics(self.style[:1])
        found = self.net.for_style(style, strength)(self.content)
        torch.testing.assert_close(found, self.net(self.content, style, strength), rtol=1e-4, atol=1e-5)

    def test_the_encoder_is_frozen_and_the_decoder_is_not(self):
        trained = {name for name, p in self.net.named_parameters() if p.requires_grad}
        assert trained == {f"decoder.{name}" for name, _ in self.net.decoder.named_parameters()}
        assert trained

    def test_an_even_picture_is_painted_evenly_and_the_trunk_is_left_as_it_is(self):
        trunk = vgg_trunk((2, 1, 2), width=4)
        net = AdaptiveStyleNet(trunk, "relu3_1")
        painted = net(torch.full((1, 3, 32, 40), 0.7), self.style[:1])
        torch.testing.assert_close(painted, painted[..., :1, :1].expand_as(painted), rtol=0, atol=1e-5)
        assert {layer.padding_mode for layer in trunk if isinstance(layer, nn.Conv2d)} == {"zeros"}

    def test_calibrated_the_decoder_gets_maps_of_unit_size(self):
        net = copy.deepcopy(self.net)
        net.calibrate(self.content)
        given = net.decoder[0](net.encoder(self.content))
        assert float(given.square().mean()) == pytest.approx(1.0, rel=1e-5)

    def test_the_decoder_mirrors_the_encoder(self):
        kinds = [type(layer) for layer in self.net.decoder]
        assert kinds[1:] == [nn.Conv2d, nn.ReLU, nn.Upsample, nn.Conv2d, nn.ReLU, nn.Upsample, nn.Conv2d, nn.Sigmoid]


def test_the_trunk_is_torchvisions():
    reference = torchvision().models.vgg16(weights=None).features.eval()
    trunk = vgg_trunk()
    convs = [layer for layer in trunk if isinstance(layer, nn.Conv2d)]
    theirs = [layer for layer in reference if isinstance(layer, nn.Conv2d)]
    for mine, their in zip(convs, theirs, strict=True):
        mine.load_state_dict(their.state_dict())
    x = torch.rand(1, 3, 32, 32)
    mean, std = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    torch.testing.assert_close(trunk(x), reference[:-1]((x - mean) / std))


def test_a_layer_that_a_trunk_lacks():
    with pytest.raises(ValueError, match="no layer 'relu9_1' in this trunk; its layers: pixels, conv1_1, relu1_1"):
        up_to(vgg_trunk((1,), width=1), "relu9_1")
