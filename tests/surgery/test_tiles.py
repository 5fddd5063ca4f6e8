"""`tiles`: a net over an image in pieces is the net over the image."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

import normwise as nw


def conv(inputs, outputs, stride=1):
    return nn.Conv2d(inputs, outputs, 3, stride, padding=1)


class UNet(nn.Module):
    """GroupNorm, two reductions, skips."""

    def __init__(self):
        super().__init__()
        self.down = nn.Sequential(conv(3, 8), nw.GroupNorm(2, 8, activation="silu"))
        self.deep = nn.Sequential(conv(8, 8, 2), nn.GroupNorm(4, 8), nn.ReLU(), conv(8, 8, 2), nn.GroupNorm(1, 8))
        self.up = nn.Sequential(nn.Upsample(scale_factor=4), conv(8, 8), nn.InstanceNorm2d(8, affine=True))
        self.out = conv(16, 2)

    def forward(self, x):
        h = self.down(x)
        return self.out(torch.cat([h, self.up(self.deep(h))], 1))


def style_net():
    """InstanceNorm, reflection, a transposed convolution."""
    return nn.Sequential(
        *(nn.ReflectionPad2d(1), nn.Conv2d(3, 8, 3), nn.InstanceNorm2d(8, affine=True), nn.ReLU()),
        *(conv(8, 8, 2), nw.InstanceNorm2d(8, affine=True, activation="relu"), nn.MaxPool2d(2)),
        *(nn.ConvTranspose2d(8, 8, 4, 4), nn.InstanceNorm2d(8), nn.ReLU(), conv(8, 3)),
    )


def randomized(net, seed=0):
    torch.manual_seed(seed)
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(torch.randn_like(p) / max(p[0].numel(), 1) ** 0.5 + (0.5 if p.dim() == 1 else 0))
    return net.double().eval()


def picture(*size, seed=1):
    """A different mean and contrast in each corner, so that tiles differ."""
    generator = torch.Generator().manual_seed(seed)
    ramp = torch.linspace(0.2, 3, size[-1], dtype=torch.float64)
    return torch.randn(size, generator=generator, dtype=torch.float64) * ramp + ramp.flip(0) * 2


@pytest.mark.parametrize("make", [UNet, style_net])
@pytest.mark.parametrize("size", [(64, 80), (52, 96), (24, 24)])
def test_exact_is_the_whole_image(make, size):
    net, image = randomized(make()), picture(2, 3, *size)
    expected = net(image)
    assert_close(nw.tiles(net, image, tile=32, overlap=24), expected, rtol=1e-9, atol=1e-9)
    seams = (nw.tiles(net, image, tile=32, overlap=24, consistency="none") - expected).abs().max()
    collected = (nw.tiles(net, image, tile=32, overlap=24, consistency="collect") - expected).abs().max()
    if size != (24, 24):
        assert seams > 0.1
        assert collected < seams


@pytest.mark.parametrize("rank", [1, 3])
def test_other_ranks_and_a_size_for_each_axis(rank):
    convolution, norm = getattr(nn, f"Conv{rank}d"), getattr(nw, f"InstanceNorm{rank}d")
    net = randomized(
        nn.Sequential(convolution(2, 4, 3, padding=1), norm(4), nn.ReLU(), convolution(4, 2, 3, padding=1))
    )
    image = picture(1, 2, *(9, 12, 14)[-rank:])
    got = nw.tiles(net, image, tile=(4, 6, 5)[-rank:], overlap=2)
    assert_close(got, net(image), rtol=1e-9, atol=1e-9)


def test_a_shared_normalizer_has_statistics_for_each_call():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = conv(3, 3), nn.GroupNorm(3, 3)

        def forward(self, x):
            return self.norm(self.conv(self.norm(x).relu()))

    net, image = randomized(Twice()), picture(1, 3, 20, 30)
    assert_close(nw.tiles(net, image, tile=8, overlap=2), net(image), rtol=1e-9, atol=1e-9)


def test_larger_output_and_batch_statistics_in_evaluation():
    net = randomized(nn.Sequential(conv(3, 4), nn.BatchNorm2d(4), nn.GroupNorm(2, 4), nn.Upsample(scale_factor=2)))
    image = picture(1, 3, 20, 28)
    got = nw.tiles(net.train(), image, tile=8, overlap=2)
    assert net.training
    assert net[1].num_batches_tracked == 0
    assert_close(got, net.eval()(image), rtol=1e-9, atol=1e-9)
    assert not got.requires_grad
    assert "forward" not in vars(net[2])


@pytest.mark.parametrize("overlap", [0, 1, 2])
def test_an_overlap_that_is_too_small_is_widened(overlap):
    net = randomized(nn.Sequential(conv(3, 3), nn.InstanceNorm2d(3), conv(3, 3)))
    image = picture(1, 3, 20, 20)
    assert_close(nw.tiles(net, image, tile=8, overlap=overlap), net(image), rtol=1e-9, atol=1e-9)
    collected = nw.tiles(net, image, tile=8, overlap=0, consistency="collect")
    assert (collected - net(image)).abs().max() > 1e-3


class Excited(nn.Sequential):
    def __init__(self):
        super().__init__(conv(3, 3), nn.AdaptiveAvgPool2d(1), nn.Sigmoid())

    def forward(self, x):
        return x * super().forward(x)


REFUSED = {
    "squeeze and excitation": (Excited, {}, ValueError, r"1 \(AdaptiveAvgPool2d\) depends on the whole image"),
    "filter response": (lambda: nw.FilterResponseNorm2d(3), {}, ValueError, "FilterResponseNorm2d.* depends on the"),
    "a vector": (lambda: nn.Sequential(nn.Flatten(), nn.LazyLinear(2)), {}, ValueError, "not initialized yet"),
    "a factor": (lambda: nn.AvgPool2d(3, 3), {"consistency": "none"}, ValueError, r"multiples of these \(3 here\)"),
    "no padding": (lambda: nn.Conv2d(3, 3, 3), {"consistency": "none"}, ValueError, "must keep the size"),
    "consistency": (UNet, {"consistency": "all"}, ValueError, "'exact', 'collect' or 'none', received 'all'"),
    "tile": (UNet, {"tile": (8, 8, 8)}, ValueError, "a tile size for each axis"),
    "overlap": (UNet, {"overlap": -1}, ValueError, "overlap must be at least 0"),
    "no module": (lambda: nn.ReLU().forward, {}, TypeError, "expects a torch.nn.Module"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_has_no_tiles(case):
    make, options, kind, words = REFUSED[case]
    model = make()
    model = model.double() if isinstance(model, nn.Module) else model
    with pytest.raises(kind, match=words):
        nw.tiles(model, picture(1, 3, 40, 40), **{"tile": 16, "overlap": 8, **options})
