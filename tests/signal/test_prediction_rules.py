"""Each rule of `predict` against an independent computation: NumPy integrals, draws, and torch on maps of moments."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from normwise.core.activations import ACTIVATIONS
from normwise.layers import NORMALIZERS, make_norm
from normwise.signal.predicting import predict
from normwise.signal.prediction.functions import FUNCTIONS
from normwise.signal.prediction.gaussian import Signal, add, multiply
from normwise.signal.prediction.modules import RULES, rule_of
from normwise.signal.prediction.options import Options


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def softplus(z):
    return np.logaddexp(0, z)


def elu(z):
    return np.where(z > 0, z, np.expm1(np.minimum(z, 0)))


# From the papers' definitions, not from torch.
IN_NUMPY = {
    "relu": lambda z: z * (z > 0),
    "relu6": lambda z: np.clip(z, 0, 6),
    "leaky_relu": lambda z: np.where(z > 0, z, 0.01 * z),
    "elu": elu,
    "celu": elu,
    "selu": lambda z: 1.0507009873554805 * np.where(z > 0, z, 1.6732632423543772 * np.expm1(np.minimum(z, 0))),
    "silu": lambda z: z * sigmoid(z),
    "gelu": lambda z: z * 0.5 * (1 + np.vectorize(math.erf)(z / math.sqrt(2))),
    "gelu_tanh": lambda z: 0.5 * z * (1 + np.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z**3))),
    "mish": lambda z: z * np.tanh(softplus(z)),
    "hardswish": lambda z: z * np.clip(z + 3, 0, 6) / 6,
    "sigmoid": sigmoid,
    "tanh": np.tanh,
    "softplus": softplus,
    "softsign": lambda z: z / (1 + np.abs(z)),
}


def signal(mean, variance, shape=None):
    mean, variance = (torch.tensor(v, dtype=torch.float64) for v in (mean, variance))
    return Signal.gaussian(shape or (4, len(mean)), 1, mean, variance)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_moments_of_an_activation(name):
    z = np.linspace(-10, 10, 200_001)
    density = np.exp(-z * z / 2) / math.sqrt(2 * math.pi) * (z[1] - z[0])
    means, variances = (0.0, 1.3, -2.0, 4.0), (1.0, 0.09, 4.0, 0.5)
    found = signal(means, variances).apply(ACTIVATIONS[name].function)
    for i, (mean, variance) in enumerate(zip(means, variances, strict=True)):
        values = IN_NUMPY[name](mean + math.sqrt(variance) * z)
        expected = (density * values).sum()
        assert found.mean[i].item() == pytest.approx(expected, rel=1e-3, abs=1e-4)
        assert found.variance[i].item() == pytest.approx((density * (values - expected) ** 2).sum(), rel=2e-3, abs=1e-4)


def through_linear_map(operation, mean, variance, size):
    """Mean and variance per channel of an operation that is linear (plus a bias), from its matrix."""
    blank = torch.zeros(1, len(mean), *size, dtype=torch.float64)
    offset = operation(blank)
    matrix = torch.func.jacrev(lambda x: operation(x))(blank).reshape(offset.numel(), -1)
    means = (matrix @ mean.repeat_interleave(math.prod(size)) + offset.flatten()).reshape(offset.shape[1], -1)
    noise = (matrix.square() @ variance.repeat_interleave(math.prod(size))).reshape(offset.shape[1], -1)
    return offset.shape[1:], means.mean(1), noise.mean(1) + means.var(1, correction=0)


GEOMETRIES = {
    "3x3 padded": (nn.Conv2d(4, 6, 3, padding=1), (5, 6)),
    "strided": (nn.Conv2d(4, 6, 3, stride=2, padding=1), (7, 4)),
    "7x7 on less": (nn.Conv2d(4, 6, 7, stride=2, padding=3), (5, 5)),
    "dilated": (nn.Conv2d(4, 6, 3, padding=2, dilation=2, bias=False), (6, 5)),
    "grouped": (nn.Conv2d(4, 6, 3, padding=1, groups=2), (4, 4)),
    "depthwise": (nn.Conv2d(4, 4, 5, padding=2, groups=4), (6, 6)),
    "same, even kernel": (nn.Conv2d(4, 6, (4, 1), padding="same"), (5, 5)),
    "circular": (nn.Conv2d(4, 6, 3, padding=1, padding_mode="circular"), (4, 5)),
    "unequal": (nn.Conv2d(4, 6, (1, 5), stride=(2, 1), padding=(0, 3)), (5, 4)),
    "1d": (nn.Conv1d(4, 6, 3, stride=2, padding=1), (9,)),
    "3d": (nn.Conv3d(4, 3, 3, padding=1), (3, 2, 4)),
    "transposed": (nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1), (3, 4)),
    "transposed, grouped": (nn.ConvTranspose1d(4, 6, 4, stride=3, dilation=2, groups=2), (4,)),
    "average": (nn.AvgPool2d(3, stride=2, padding=1), (5, 6)),
    "average without padding": (nn.AvgPool2d(3, stride=2, padding=1, count_include_pad=False), (5, 6)),
    "average, rounded up": (nn.AvgPool1d(3, stride=2, ceil_mode=True), (6,)),
    "adaptive": (nn.AdaptiveAvgPool2d((3, 1)), (5, 4)),
    "nearest": (nn.Upsample(scale_factor=2), (3, 4)),
    "bilinear": (nn.Upsample(scale_factor=2, mode="bilinear"), (3, 4)),
    "bilinear, corners": (nn.Upsample(size=(7, 5), mode="bilinear", align_corners=True), (3, 4)),
    "zeros around": (nn.ZeroPad2d((1, 2, 0, 1)), (3, 4)),
    "ones around": (nn.ConstantPad2d((1, 0, 2, 1), 1.0), (3, 4)),
    "repeated": (nn.CircularPad1d((4, 4)), (4,)),
}


@pytest.mark.filterwarnings("ignore:Using padding=.same. with even kernel")
@pytest.mark.parametrize("case", GEOMETRIES)
def test_linear_operations_exactly(case):
    module, size = GEOMETRIES[case]
    module = module.double()
    mean, variance = torch.randn(4, dtype=torch.float64), torch.rand(4, dtype=torch.float64)
    x = Signal.gaussian((2, 4, *size), 1, mean, variance)
    with torch.no_grad():
        shape, means, variances = through_linear_map(module, mean, variance, size)
        found = rule_of(module)(module, Options(), x)
    assert found.shape == (2, *shape)
    torch.testing.assert_close(found.mean, means)
    torch.testing.assert_close(found.variance, variances)


@pytest.mark.parametrize("case", ["3x3 padded", "grouped", "1d", "transposed", "average", "adaptive", "bilinear"])
def test_functions_are_their_modules(case):
    module, size = GEOMETRIES[case]

    calls = {
        "3x3 padded": lambda x, w, b: F.conv2d(x, w, b, padding=1),
        "grouped": lambda x, w, b: F.conv2d(x, w, b, 1, 1, 1, 2),
        "1d": lambda x, w, b: F.conv1d(x, w, b, stride=2, padding=1),
        "transposed": lambda x, w, b: F.conv_transpose2d(x, w, b, 2, 1, 1),
        "average": lambda x, w, b: F.avg_pool2d(x, 3, 2, 1),
        "adaptive": lambda x, w, b: F.adaptive_avg_pool2d(x, (3, 1)),
        "bilinear": lambda x, w, b: F.interpolate(x, scale_factor=2, mode="bilinear"),
    }

    class Functional(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight, self.bias = getattr(module, "weight", None), getattr(module, "bias", None)

        def forward(self, x):
            return calls[case](x, self.weight, self.bias)

    functional = nn.Sequential(Functional(), nn.Identity())
    ours, theirs = (predict(net, (2, 4, *size)).taps[-1] for net in (functional, nn.Sequential(module, nn.Identity())))
    assert (ours.shape, ours.variance, ours.squared_mean) == (theirs.shape, theirs.variance, theirs.squared_mean)


def test_max_pooling_with_borders_and_after_relu():
    draws = torch.randn(20_000, 2, 5, 5) * torch.tensor([1.0, 2.0]).view(2, 1, 1) + torch.tensor([0.0, -1.0]).view(
        2, 1, 1
    )
    pool = nn.MaxPool2d(3, stride=2, padding=1)
    x = signal((0.0, -1.0), (1.0, 4.0), (1, 2, 5, 5))
    for before in (lambda t: t, F.relu, torch.neg):
        expected = pool(before(draws))
        found = rule_of(pool)(pool, Options(), x.apply(before))
        assert found.shape == (1, 2, 3, 3)
        torch.testing.assert_close(found.mean.float(), expected.mean((0, 2, 3)), rtol=0.01, atol=0.01)
        torch.testing.assert_close(found.variance.float(), expected.var((0, 2, 3)), rtol=0.01, atol=0.01)


def test_padding_before_a_window_is_known_where_it_is():
    class Padded(nn.Module):
        def __init__(self, value, window):
            super().__init__()
            self.value, self.window = value, window

        def forward(self, x):
            return self.window(F.pad(x, (0, 1, 1, 1), value=self.value))

    conv = nn.Conv2d(4, 6, 3, stride=2, padding=(0, 1)).double()
    mean, variance = torch.randn(4, dtype=torch.float64), torch.rand(4, dtype=torch.float64)
    x = mean.view(4, 1, 1) + variance.sqrt().view(4, 1, 1) * torch.randn(20_000, 4, 5, 4, dtype=torch.float64)
    with torch.no_grad():
        _, means, variances = through_linear_map(Padded(0.0, conv), mean, variance, (5, 4))
        tap = predict(Padded(0.0, conv), x).layers[0]
        largest = F.max_pool2d(F.pad(x, (0, 1, 1, 1), value=-math.inf), 3, 2)
        top = predict(Padded(-math.inf, nn.MaxPool2d(3, 2)), x).layers[0]
    assert (tap.variance, tap.squared_mean) == pytest.approx(
        (variances.mean().item(), means.square().mean().item()), rel=0.02
    )
    assert top.shape == largest.shape
    assert top.variance == pytest.approx(largest.var((0, 2, 3)).mean().item(), rel=0.02)
    assert top.squared_mean == pytest.approx(largest.mean((0, 2, 3)).square().mean().item(), rel=0.02)


def test_sum_of_a_rectified_signal_and_noise_is_not_taken_for_normal():
    rng = np.random.default_rng(0)
    z, noise = rng.standard_normal((2, 1_000_000))
    rectified = signal((0.0,), (1.0,)).apply(F.relu)
    total = add(rectified, signal((0.2,), (0.25,)))
    draws = np.maximum(z, 0) + 0.2 + 0.5 * noise
    again = total.apply(F.relu)
    assert total.variance.item() == pytest.approx(draws.var(), rel=0.005)
    assert again.mean.item() == pytest.approx(np.maximum(draws, 0).mean(), rel=0.005)
    assert again.variance.item() == pytest.approx(np.maximum(draws, 0).var(), rel=0.01)
    third = total.apply(lambda t: t**3)  # a Gaussian of these moments would have 1.1 here
    assert third.mean.item() == pytest.approx((draws**3).mean(), rel=0.02)


def test_sum_of_two_rectified_signals_stays_positive():
    z, other = np.random.default_rng(0).standard_normal((2, 1_000_000))
    total = add(signal((0.0,), (1.0,)).apply(F.relu), signal((0.3,), (0.5,)).apply(F.relu))
    draws = np.maximum(z, 0) + np.maximum(0.3 + math.sqrt(0.5) * other, 0)
    again = total.apply(F.relu)
    assert again.mean.item() == pytest.approx(draws.mean(), rel=0.005)
    assert again.variance.item() == pytest.approx(draws.var(), rel=0.01)


def test_products_and_functions_of_the_same_values():
    a, b = signal((1.0,), (0.5,)), signal((-2.0,), (2.0,))
    rng = np.random.default_rng(1)
    x, y = 1 + math.sqrt(0.5) * rng.standard_normal(1_000_000), -2 + math.sqrt(2) * rng.standard_normal(1_000_000)
    assert multiply(a, b).variance.item() == pytest.approx((x * y).var(), rel=0.01)
    square = FUNCTIONS[torch.mul](a, a)
    assert square.mean.item() == pytest.approx((x * x).mean(), rel=0.01)
    swish = FUNCTIONS[torch.mul](a, a.apply(torch.sigmoid))
    assert swish.variance.item() == pytest.approx((x * sigmoid(x)).var(), rel=0.01)
    assert FUNCTIONS[torch.sub](a, a).variance.item() == 0
    assert FUNCTIONS[torch.add](a, a).variance.item() == pytest.approx(2.0)


@pytest.mark.parametrize("name", [name for name, row in NORMALIZERS.items() if row.for_channels and name != "sync"])
def test_normalizers_of_maps(name):
    layer = make_norm(name, 64, rank=2)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.uniform_(0.5, 1.5)
    mean, deviation = torch.randn(64), 0.5 + torch.rand(64)
    x = mean.view(64, 1, 1) + deviation.view(64, 1, 1) * torch.randn(8, 64, 32, 32)
    with torch.no_grad():
        y = layer(x)
        found = rule_of(layer)(layer, Options(), Signal.gaussian(x.shape, 1, mean, deviation.square()))
    expected = y.double().var((0, 2, 3), correction=0)
    # Per-pixel statistics of 64 channels vary from pixel to pixel, which the theory leaves out.
    tolerance = {"pixel-layer": 0.1, "pixel-rms": 0.1, "positional": 0.15}.get(name, 0.05)
    torch.testing.assert_close(found.mean, y.double().mean((0, 2, 3)), rtol=tolerance, atol=0.05)
    torch.testing.assert_close(found.variance, expected, rtol=tolerance, atol=0.02)


def test_every_normalizer_that_takes_its_input_alone_has_a_rule():
    without = {name for name, row in NORMALIZERS.items() for kind in row.layers.values() if kind not in RULES}
    assert without == {name for name, row in NORMALIZERS.items() if row.condition is not None}


@pytest.mark.parametrize("norm", [nn.LayerNorm(64), nn.RMSNorm(64), nn.LayerNorm((5, 64))], ids=["layer", "rms", "two"])
def test_normalizers_of_rows(norm):
    with torch.no_grad():
        norm.weight.uniform_(0.5, 1.5)
    mean, deviation = 0.5 * torch.randn(64), 0.5 + torch.rand(64)
    x = mean + deviation * torch.randn(4000, 5, 64)
    with torch.no_grad():
        y = norm(x).double()
        found = rule_of(norm)(norm, Options(), Signal.gaussian(x.shape, 2, mean, deviation.square()))
    variance, center = torch.var_mean(y, (0, 1), correction=0)
    assert found.mean.square().mean().item() == pytest.approx(center.square().mean().item(), rel=0.05)
    assert found.variance.mean().item() == pytest.approx(variance.mean().item(), rel=0.06)


def test_evaluation_uses_the_running_statistics_only_when_asked_to():
    norm = nn.BatchNorm2d(2).eval()
    norm.running_mean.copy_(torch.tensor([1.0, 2.0]))
    norm.running_var.copy_(torch.tensor([4.0, 0.25]))
    net = nn.Sequential(norm, nn.Identity())
    by_memory = predict(net, (4, 2, 8, 8), batch_statistics=False).taps[0]
    assert by_memory.variance == pytest.approx((1 / 4 + 1 / 0.25) / 2, rel=1e-4)
    assert by_memory.squared_mean == pytest.approx((0.25 + 16) / 2, rel=1e-4)
    assert predict(net, (4, 2, 8, 8)).taps[0].variance == pytest.approx(1, rel=1e-4)


def test_a_signal_seen_along_another_dimension_pools_its_channels():
    """What differs from channel to channel becomes variance: the law of total variance, here on drawn values."""
    mean, variance = torch.tensor([-1.0, 0.0, 4.0]), torch.tensor([0.5, 2.0, 1.0])
    seen = Signal.gaussian((8, 3, 5), 1, mean, variance).along(2)
    values = torch.randn(100_000, 3, generator=torch.Generator().manual_seed(0)) * variance.sqrt() + mean
    assert seen.mean.tolist() == pytest.approx([values.mean().item()] * 5, abs=0.02)
    assert seen.variance.tolist() == pytest.approx([values.var().item()] * 5, rel=0.01)
