"""Predicted nets against measured ones."""

import libraries
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from normwise import nets
from normwise.cli.model_names import model_builder
from normwise.signal import predict, trace
from normwise.weights import scaled_weight_standardization


def pairs(net, shape, kind, **options):
    """(measured, predicted) taps of one kind; the names are the same."""
    measured, predicted = trace(net, shape, **options), predict(net, shape, **options)
    places = [[(tap.kind, tap.name, tap.type, tap.shape) for tap in t.taps] for t in (measured, predicted)]
    assert places[0] == places[1]
    return list(zip(*([tap for tap in t.taps if tap.kind == kind] for t in (measured, predicted)), strict=True))


def assert_variances(found, tolerance):
    for measured, predicted in found:
        assert predicted.variance == pytest.approx(measured.variance, rel=tolerance), measured.name


def test_nf_resnet50_within_ten_percent_and_reset_after_transitions():
    net, shape = nets.nf_resnet50(), (8, 3, 128, 128)
    blocks = pairs(net, shape, "block", skip_gain=1.0)
    assert_variances(blocks, 0.1)
    assert_variances(pairs(net, shape, "branch", skip_gain=1.0), 0.1)
    # alpha = 0.2: the first block of a stage starts again from 1, every block adds 0.04
    steps = [0.04 * (i + 1) for stage in (3, 4, 6, 3) for i in range(stage)]
    for (measured, predicted), step in zip(blocks, steps, strict=True):
        assert measured.variance == pytest.approx(1 + step, rel=0.1)
        assert predicted.variance == pytest.approx(1 + step, rel=0.1)
        assert max(measured.squared_mean, predicted.squared_mean) < 0.05


NETS = {
    "pre-activation": (lambda: nets.resnet(20, preactivation=True), 0.1),
    "post-activation": (lambda: ones(nets.resnet(20)), 0.1),
    "zero at the end of each branch": (lambda: nets.resnet(20), 0.1),
    "GroupNorm": (lambda: ones(nets.resnet(20, norm="group")), 0.15),
    # The mean of the signal grows, and with it what independent channels leave out.
    "no normalizer": (lambda: nets.resnet(20, norm="none", preactivation=True), 0.3),
}


def ones(net):
    for module in net.modules():
        if isinstance(module, (nn.BatchNorm2d, nn.GroupNorm)):
            nn.init.ones_(module.weight)
    return net


@pytest.mark.parametrize("name", NETS)
def test_residual_networks(name):
    make, tolerance = NETS[name]
    assert_variances(pairs(make(), (16, 3, 32, 32), "block"), tolerance)


def test_squared_means_of_a_net_whose_mean_shifts():
    for measured, predicted in pairs(nets.resnet(20, preactivation=True), (16, 3, 32, 32), "block"):
        assert predicted.squared_mean == pytest.approx(measured.squared_mean, rel=0.1), measured.name


def test_branches_are_taken_before_gains_and_drops():
    class Block(nn.Module):
        def __init__(self, width):
            super().__init__()
            self.conv = scaled_weight_standardization(nn.Conv2d(width, width, 3, padding=1))
            self.drop = nets.StochasticDepth(0.5)
            self.gain = nets.SkipGain()

        def forward(self, x):
            return x + 0.5 * self.gain(self.drop(self.conv(F.relu(x) * 1.7)))

    net = nn.Sequential(Block(32), Block(32))
    (_, branch), _ = pairs(net, (8, 32, 16, 16), "branch")
    (_, block), _ = pairs(net, (8, 32, 16, 16), "block")
    assert branch.name == block.name == "0"
    assert branch.variance == pytest.approx(0.93, rel=0.1)  # zero padding takes a few percent
    assert block.variance == pytest.approx(1, rel=1e-3)
    (_, block), _ = pairs(net, (8, 32, 16, 16), "block", skip_gain=2.0)
    assert block.variance == pytest.approx(1 + branch.variance, rel=0.01)


class UNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.down, self.deep = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 32, 3, 2, 1)
        self.up, self.out = nn.ConvTranspose2d(32, 16, 2, 2), nn.Conv2d(32, 4, 1)

    def forward(self, x):
        skip = F.relu(self.down(x))
        return self.out(torch.cat([skip, self.up(F.relu(self.deep(skip)))], dim=1))


class Gated(nn.Module):
    """Squeeze-and-excitation written out, with functions and shapes."""

    def __init__(self):
        super().__init__()
        self.conv, self.gate = nn.Conv2d(3, 32, 3), nn.Linear(32, 32)

    def forward(self, x):
        x = self.conv(x)
        n, c = x.size(0), x.shape[1]
        squeezed = F.adaptive_avg_pool2d(F.silu(x), 1).view(n, -1)
        return x * (2 * torch.sigmoid(self.gate(squeezed))).reshape(n, c, 1, 1)


class StandardizedByBatchNorm(nn.Conv2d):
    """A standardized weight as timm computes it: by batch normalization of the weight."""

    def forward(self, x):
        weight = F.batch_norm(self.weight.reshape(1, self.out_channels, -1), None, None, training=True, momentum=0.0)
        weight = weight.reshape_as(self.weight) * self.weight[0].numel() ** -0.5
        return F.conv2d(x, weight, self.bias, self.stride, self.padding)


class Mixer(nn.Module):
    """Linear layers over the last of three dimensions, and over the middle one by transposition."""

    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(64)
        self.tokens, self.channels = nn.Linear(16, 16), nn.Linear(64, 64)
        self.place = nn.Parameter(torch.randn(1, 16, 64))

    def forward(self, x):
        x = x + self.place
        x = x + self.tokens(self.norm(x).transpose(1, 2)).transpose(1, 2)
        return x + self.channels(F.gelu(x))


OTHERS = {
    "U-Net": (UNet, (8, 3, 32, 32)),
    "gates": (Gated, (64, 3, 12, 12)),
    "weights by functions": (lambda: nn.Sequential(StandardizedByBatchNorm(8, 64, 3), nn.ReLU()), (8, 8, 16, 16)),
    "tokens": (Mixer, (64, 16, 64)),
    "1d": (
        lambda: nn.Sequential(nn.Conv1d(2, 64, 9), nn.PReLU(64), nn.MaxPool1d(3), nn.Conv1d(64, 64, 3)),
        (16, 2, 99),
    ),
    "features": (lambda: nn.Sequential(nn.Linear(50, 200), nn.SELU(), nn.Dropout(), nn.Linear(200, 9)), (256, 50)),
    "one layer": (lambda: nn.Conv3d(2, 32, 3), (4, 2, 8, 8, 8)),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_networks(name):
    make, shape = OTHERS[name]
    found = pairs(make(), shape, "layer")
    assert found
    # What is averaged over space holds few samples, and means of few values scatter.
    assert_variances(found, 0.25)


def test_in_place_operations_change_what_they_act_on():
    class Block(nn.Module):
        def __init__(self, inplace):
            super().__init__()
            self.relu, self.conv = nn.ReLU(inplace), nn.Conv2d(8, 8, 3, padding=1)

        def forward(self, x):
            x = x * 1.0
            return self.conv(self.relu(x)) + x

    by_copy, in_place = (predict(Block(inplace), (8, 8, 16, 16)).blocks[0] for inplace in (False, True))
    assert by_copy.squared_mean < 0.05
    assert in_place.squared_mean > 0.1  # the shortcut has been rectified
    assert_variances(pairs(Block(True), (8, 8, 16, 16), "block"), 0.1)


class AsTorchvision(nn.Module):
    """A post-activation block as it is usually written: everything in place."""

    def __init__(self, width):
        super().__init__()
        self.conv, self.bn, self.relu = nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(True)

    def forward(self, x):
        out = self.relu(self.bn(self.conv(x)))
        out += x
        return self.relu(out)


def test_what_works_in_place_does_not_change_what_was_before_it():
    net = nn.Sequential(nn.Conv2d(3, 32, 3), nn.BatchNorm2d(32), nn.ReLU(True), AsTorchvision(32), AsTorchvision(32))
    shape = (16, 3, 24, 24)
    assert_variances(pairs(net, shape, "layer"), 0.1)
    assert_variances(pairs(net, shape, "block"), 0.1)
    bn, relu = predict(net, shape).taps[1:3]
    assert bn.variance == pytest.approx(1, rel=1e-3)
    assert relu.variance == pytest.approx(0.34, rel=0.02)


class Parallel(nn.Module):
    """Two equally deep paths are no residual block; the sum with their input is one."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 1)
        self.scale, self.shift = nn.Parameter(torch.full((8, 1, 1), 2.0)), nn.Parameter(torch.randn(8, 1, 1))

    def forward(self, x):
        both = self.a(x) + self.b(x)
        mean = both.mean((2, 3), keepdim=True).expand_as(both)
        return x + torch.addcmul(self.shift, both - mean, self.scale)


def test_parallel_paths_are_no_residual_block():
    found = pairs(Parallel(), (8, 8, 16, 16), "block")
    assert [measured.name for measured, _ in found] == ["Parallel"]
    assert_variances(found, 0.1)


LIBRARIES = (
    *("torchvision:resnet50", "torchvision:mobilenet_v3_large", "torchvision:convnext_tiny", "torchvision:densenet121"),
    *("timm:resnet50", "timm:efficientnet_b0", "timm:seresnet50", "timm:res2net50_26w_4s", "timm:hrnet_w18_small"),
)


@pytest.mark.slow
@pytest.mark.parametrize("name", LIBRARIES)
def test_models_of_other_libraries(name):
    getattr(libraries, name.partition(":")[0])()
    net = model_builder(name)()
    for kind in ("block", "branch"):
        assert_variances(pairs(net, (4, 3, 96, 96), kind), 0.1)
