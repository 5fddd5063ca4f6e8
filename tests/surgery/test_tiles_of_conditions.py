"""`tiles` on normalizers that are told a condition, and on every normalizer that there is."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

import normwise as nw
from normwise.layers import NORMALIZERS


def conv(inputs, outputs):
    return nn.Conv2d(inputs, outputs, 3, padding=1)


class Held(nn.Module):
    """Two convolutions around a layer that is given what the net holds."""

    def __init__(self, layer, *held, **options):
        super().__init__()
        self.first, self.layer, self.second = conv(3, 6), layer, conv(6, 2)
        self.held, self.options = held, options

    def forward(self, x):
        x = self.first(x)
        return self.second(self.layer(x, *self.held, **self.options))


class OfTheImage(Held):
    """What the layer is given comes from the image."""

    def forward(self, x):
        return self.second(self.layer(self.first(x), self.held[0](x), **self.options))


class Masked(Held):
    def forward(self, x):
        return self.second(self.layer(self.first(x), mask=self.held[0](x)))


def image(*size, seed=1):
    """A different mean and contrast along the width, so that tiles differ."""
    generator = torch.Generator().manual_seed(seed)
    ramp = torch.linspace(0.2, 3, size[-1], dtype=torch.float64)
    return torch.randn(size, generator=generator, dtype=torch.float64) * ramp + ramp.flip(0) * 2


def filled(net, seed=0):
    torch.manual_seed(seed)
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(torch.randn_like(p) / max(p[0].numel(), 1) ** 0.5 + 0.5)
    return net.double().eval()


def style(seed=5):
    torch.manual_seed(seed)
    return 3 + 2 * torch.randn(2, 6, 5, 4, dtype=torch.float64)


LABELS, WEIGHTS = torch.tensor([2, 0]), torch.tensor([[0.3, 0.7, 0.0], [0.1, 0.1, 0.8]], dtype=torch.float64)
CONDITIONED = {
    "labels": lambda: Held(nw.ConditionalInstanceNorm2d(6, 3), LABELS),
    "a blend, by name, with an activation": lambda: Held(
        nw.ConditionalInstanceNorm2d(6, 3, activation="silu"), condition=WEIGHTS
    ),
    "the style of another picture": lambda: Held(nw.AdaptiveInstanceNorm(activation="relu"), style()),
    "statistics of a style": lambda: Held(
        nw.AdaptiveInstanceNorm(), style=nw.AdaptiveInstanceNorm.statistics(style()[:1])
    ),
    "batch statistics in evaluation": lambda: Held(nw.ConditionalBatchNorm2d(6, 3), LABELS),
    "a segmentation made of the image": lambda: OfTheImage(
        nw.SPADE(6, 2, norm="instance", hidden=4), lambda x: torch.cat([x[:, :1], 1 - x[:, :1]], 1)
    ),
    "labels made of the image": lambda: OfTheImage(
        nw.SPADE(6, 2, norm="batch", hidden=4), lambda x: (x[:, 0] > 1).long()
    ),
    "a mask made of the image": lambda: Masked(nw.GroupNorm(2, 6), lambda x: x[:, 0] > 0.5),
}


@pytest.mark.parametrize("case", CONDITIONED)
def test_conditions_that_a_net_holds(case):
    net, x = filled(CONDITIONED[case]()), image(2, 3, 36, 44)
    expected = net(x)
    assert_close(nw.tiles(net, x, tile=12, overlap=4), expected, rtol=1e-9, atol=1e-9)
    assert_close(nw.tiles(net, x, tile=12, overlap=0), expected, rtol=1e-9, atol=1e-9)
    # One normalizer between convolutions: what is measured in the first pass is what the whole image has.
    assert_close(nw.tiles(net, x, tile=12, overlap=4, consistency="collect"), expected, rtol=1e-9, atol=1e-9)


def test_an_unfolded_net_of_many_styles():
    net, x = filled(nw.nets.StyleNet(width=4, blocks=1, styles=3)), image(1, 3, 48, 64)

    class Second(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = net

        def forward(self, x):
            return self.net(x, torch.tensor([1]))

    assert_close(nw.tiles(Second(), x, tile=16, overlap=32), net.for_style(1)(x), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("consistency", ["exact", "collect", "none"])
@pytest.mark.parametrize("held", [(2, 2, 36, 44), (2, 36, 44), (2, 2, 18, 22), (2, 2, 7, 5)])
def test_a_segmentation_of_the_whole_image_is_refused(held, consistency):
    segmentation = torch.rand(held).double() if len(held) == 4 else torch.randint(2, held)
    net, x = filled(Held(nw.SPADE(6, 2, norm="instance", hidden=4), segmentation)), image(2, 3, 36, 44)
    with pytest.raises(
        ValueError, match=r"SPADE needs the segmentation of each tile.* got \[2.*make it from its input"
    ):
        nw.tiles(net, x, tile=12, overlap=4, consistency=consistency)
    assert not net.layer._forward_pre_hooks
    assert_close(nw.tiles(net, x, tile=64, overlap=4), net(x), rtol=1e-9, atol=1e-9)


def test_lengths_are_refused_and_masks_of_the_whole_too():
    x = image(2, 3, 40)
    net = nn.Conv1d(3, 6, 3, padding=1).double()

    class Told(nn.Module):
        def __init__(self, **options):
            super().__init__()
            self.conv, self.norm, self.options = net, nw.InstanceNorm1d(6), options

        def forward(self, x):
            return self.norm(self.conv(x), **self.options)

    with pytest.raises(ValueError, match="lengths, which count from the start of the whole"):
        nw.tiles(Told(lengths=torch.tensor([40, 7])), x, tile=16, overlap=2)
    with pytest.raises(ValueError, match="mask must be"):
        nw.tiles(Told(mask=torch.ones(2, 40, dtype=torch.bool)), x, tile=16, overlap=2)


@pytest.mark.parametrize("name", [name for name, row in NORMALIZERS.items() if row.for_channels and not row.condition])
def test_every_normalizer_is_whole_or_refused(name):
    torch.manual_seed(0)
    layer = NORMALIZERS[name].make(6, 2, None)
    net, x = nn.Sequential(conv(3, 6), layer, conv(6, 2)).double(), image(2, 3, 36, 44)
    net(x)  # what a memory holds, and lazily made parameters
    net.eval()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    try:
        got = nw.tiles(net, x, tile=12, overlap=4)
    except ValueError as error:
        assert "depends on the whole image" in str(error) and type(layer).__name__ in str(error)  # noqa: PT017, PT018
    else:
        assert_close(got, net(x), rtol=1e-8, atol=1e-8)
    assert_close(dict(net.state_dict()), before, rtol=0, atol=0)
