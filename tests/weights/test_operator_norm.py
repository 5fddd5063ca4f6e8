"""The operator's norm against dense matrices of the layers and their SVD in numpy."""

import math

import numpy as np
import pytest
import torch
from dense_operators import dense, dense_by_loops, true_norm
from torch import nn
from torch.nn.utils import parametrizations as torchs
from torch.testing import assert_close

from normwise.weights import WSConv2d, sigma, spectral_norm


@pytest.mark.parametrize("circular", [True, False], ids=["circular", "zeros"])
def test_the_dense_oracle_is_the_convolution(circular):
    layer = nn.Conv1d(2, 3, 3, padding=1, padding_mode="circular" if circular else "zeros").double()
    np.testing.assert_allclose(
        dense(layer, (5,)), dense_by_loops(layer.weight.detach().numpy(), 5, 1, circular), rtol=1e-12, atol=1e-15
    )


def conv(rank, *args, **options):
    return getattr(nn, f"Conv{rank}d")(*args, **options)


CIRCULAR = [
    ((7,), lambda: conv(1, 3, 4, 3, padding=1, padding_mode="circular")),
    ((6,), lambda: conv(1, 3, 3, 5, padding=2, padding_mode="circular")),
    ((5,), lambda: conv(1, 2, 3, 4, padding="same", padding_mode="circular")),
    ((7,), lambda: conv(1, 2, 3, 3, padding=2, dilation=2, padding_mode="circular")),
    ((6,), lambda: conv(1, 2, 3, 3, padding=2, dilation=2, padding_mode="circular")),  # not all frequencies occur
    ((4,), lambda: conv(1, 2, 3, 3, padding=3, dilation=3, padding_mode="circular")),  # taps wrap around
    ((5, 6), lambda: conv(2, 3, 4, 3, padding=1, padding_mode="circular")),
    ((6, 5), lambda: conv(2, 4, 6, 3, padding=1, groups=2, padding_mode="circular")),
    ((4, 5), lambda: conv(2, 3, 2, (3, 1), padding=(1, 0), padding_mode="circular")),
    ((4, 4), lambda: conv(2, 3, 3, 3, padding=1, groups=3, padding_mode="circular")),
    ((3, 4, 3), lambda: conv(3, 2, 2, 3, padding=1, padding_mode="circular")),
]


@pytest.mark.parametrize(("size", "make"), CIRCULAR)
def test_circular_padding_is_exact(size, make):
    layer = make().double()
    for _ in range(4):
        with torch.no_grad():
            layer.weight.normal_()
        report = sigma(layer, input_size=size)
        assert report.exact
        assert report.operator == pytest.approx(true_norm(layer, size), rel=1e-10)
        assert sigma(layer).operator >= report.operator * (1 - 1e-12)


BOUNDED = [
    ((9,), lambda: conv(1, 3, 4, 3, padding=1)),
    ((9,), lambda: conv(1, 3, 4, 3)),
    ((4,), lambda: conv(1, 3, 4, 2, padding=1)),
    ((9,), lambda: conv(1, 4, 4, 3, padding=4, dilation=2, groups=2)),
    ((3,), lambda: conv(1, 2, 3, 5, padding=4)),  # a kernel larger than the input
    ((8, 7), lambda: conv(2, 3, 4, 3, padding=1)),
    ((8, 7), lambda: conv(2, 3, 4, (5, 3), padding="same")),
    ((8, 7), lambda: conv(2, 3, 4, 3, padding=1, stride=2)),
    ((8, 7), lambda: conv(2, 3, 4, 4, padding=1, stride=(2, 3))),
    ((6, 6), lambda: conv(2, 3, 4, 3, padding=1, stride=2, padding_mode="circular")),
    ((6, 6), lambda: conv(2, 3, 4, 3, padding=0, padding_mode="circular")),
    ((4, 3, 4), lambda: conv(3, 2, 2, 3, padding=1)),
    ((6,), lambda: nn.ConvTranspose1d(3, 4, 3, padding=1)),
    ((6,), lambda: nn.ConvTranspose1d(4, 6, 3, stride=2, output_padding=1, groups=2)),
    ((5, 4), lambda: nn.ConvTranspose2d(3, 2, 4, stride=2, padding=1)),
    ((5, 4), lambda: nn.ConvTranspose2d(4, 4, 3, dilation=2, groups=2)),
    ((3, 2, 3), lambda: nn.ConvTranspose3d(2, 3, 2, stride=2)),
]


@pytest.mark.parametrize(("size", "make"), BOUNDED)
def test_the_bound_is_one(size, make):
    """For random kernels and for one that is nearly a low-pass filter, where the norm comes close to the bound."""
    layer = make()
    for weight in (torch.randn_like(layer.weight), torch.rand_like(layer.weight) + 1):
        with torch.no_grad():
            layer.weight.copy_(weight)
        truth = true_norm(layer, size)
        anywhere, here = sigma(layer), sigma(layer, input_size=size)
        assert not anywhere.exact
        assert not here.exact
        assert truth <= here.operator * (1 + 1e-12)
        assert here.operator <= anywhere.operator * (1 + 1e-12)
        assert here.excess == 1.0
        if layer.groups == 1:
            assert 1 <= anywhere.slack <= math.prod(layer.kernel_size) ** 0.5 * anywhere.excess
        layer.float()


@pytest.mark.parametrize("kernel", [2, 3, 4, 5])
def test_the_bound_is_tight_for_large_inputs(kernel):
    """On a long input the zero-padded norm approaches the supremum: the bound exceeds it by the stated factor only."""
    layer = nn.Conv1d(2, 2, kernel, padding=kernel - 1)
    report = sigma(layer)
    truth = true_norm(layer, (200,))
    assert truth <= report.operator <= truth * report.excess * 1.001
    assert report.excess == pytest.approx(1 / math.cos(math.pi / 16))
    assert sigma(layer, input_size=200).operator <= truth * 1.001


def test_the_factor_between_grid_and_all_frequencies():
    """Ehlich and Zeller's factor on random polynomials of even and odd length, against a fine sampling."""
    rng = np.random.default_rng(0)
    for taps in (2, 3, 4, 5, 6):
        for coefficients in rng.standard_normal((50, taps)):
            layer = nn.Conv1d(1, 1, taps, dtype=torch.float64)
            with torch.no_grad():
                layer.weight.copy_(torch.from_numpy(coefficients))
            supremum = np.abs(np.fft.fft(coefficients, 4096)).max()
            assert supremum <= sigma(layer).operator <= 1.0196 * supremum * (1 + 1e-4)


def test_ordinary_spectral_norm_leaves_the_operator_above_one_and_operator_mends_it():
    """torch's, converged: the reshaped matrix has norm 1, the circular convolution about 1.6."""
    size = (8, 8)
    layer = nn.Conv2d(8, 8, 3, padding=1, padding_mode="circular")
    theirs = torchs.spectral_norm(nn.Conv2d(8, 8, 3, padding=1, padding_mode="circular"), n_power_iterations=200)
    assert theirs.weight.shape == layer.weight.shape
    report = sigma(theirs, input_size=size)
    assert report.matrix == pytest.approx(1.0, abs=1e-4)
    assert report.operator == pytest.approx(true_norm(theirs, size), rel=1e-6)
    assert 1.3 < report.operator < 3.0  # at most sqrt(9)
    assert report.slack == pytest.approx(report.operator / report.matrix)
    ours = spectral_norm(layer, operator=True, input_size=size)
    assert true_norm(ours, size) == pytest.approx(1.0, abs=1e-6)
    assert sigma(ours, input_size=size).operator == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize(("size", "make"), BOUNDED[::3])
def test_normalized_layers_never_amplify(size, make):
    layer = spectral_norm(make(), operator=True)
    for _ in range(3):
        with torch.no_grad():
            layer.parametrizations.weight.original.copy_(torch.randn_like(layer.parametrizations.weight.original))
        for mode in (True, False):  # the certificate also holds after a step without a forward in training
            assert true_norm(layer.train(mode), size) <= 1 + 1e-6
            layer.float()


def test_linear_and_pointwise_layers_are_exact():
    linear = nn.Linear(5, 4)
    expected = np.linalg.svd(linear.weight.detach().double().numpy(), compute_uv=False)[0]
    report = sigma(linear)
    assert report.exact
    assert report.matrix == pytest.approx(expected)
    assert report.operator == pytest.approx(expected)
    assert report.slack == pytest.approx(1.0)
    weight = spectral_norm(linear, operator=True).weight.detach().numpy()
    assert np.linalg.svd(weight, compute_uv=False)[0] == pytest.approx(1.0, abs=1e-6)
    pointwise = nn.Conv2d(3, 4, 1)
    assert sigma(pointwise).exact
    assert sigma(pointwise).operator == pytest.approx(true_norm(pointwise, (3, 3)))


@pytest.mark.parametrize("value", [0.0, float("nan"), float("inf")])
def test_weights_without_a_norm(value):
    """Zero stays zero with the identity's gradient; what is not finite is not an error of LAPACK."""
    layer = spectral_norm(nn.Conv2d(12, 9, 3), operator=True)
    original = layer.parametrizations.weight.original
    with torch.no_grad():
        original.fill_(value)
    weight = layer.weight
    assert_close(weight, torch.full_like(weight, value), rtol=0, atol=0, equal_nan=True)
    if value == 0.0:
        cotangent = torch.randn_like(weight)
        assert_close(torch.autograd.grad(weight, original, cotangent)[0], cotangent, rtol=0, atol=0)
        assert sigma(layer).slack == 1.0


@pytest.mark.parametrize("scale", [1e-25, 1e25])
def test_scale_of_the_weight_does_not_matter(scale):
    """Squares of these leave the range of fp32."""
    layer = nn.Conv2d(3, 4, 3)
    expected = spectral_norm(nn.Conv2d(3, 4, 3), operator=True)
    expected.load_state_dict(
        {f"{k}": v for k, v in zip(expected.state_dict(), [layer.bias, layer.weight], strict=True)}
    )
    with torch.no_grad():
        layer.weight.mul_(scale)
    assert_close(spectral_norm(layer, operator=True, eps=0.0).weight, expected.weight, rtol=1e-5, atol=1e-7)


def test_norm_is_computed_once_per_change_and_shared_by_two_forwards(monkeypatch):
    from normwise.weights import operator_norm

    calls = []
    original = operator_norm.steepest_direction
    monkeypatch.setattr(operator_norm, "steepest_direction", lambda *a: calls.append(1) or original(*a))
    layer = spectral_norm(nn.Conv2d(2, 2, 3), operator=True)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    for expected in (1, 2, 3):
        (layer(torch.randn(1, 2, 4, 4)).sum() - layer(torch.randn(1, 2, 4, 4)).mean()).backward()
        assert len(calls) == expected
        optimizer.step()


def test_checkpoints_of_the_reshaped_matrix_load():
    theirs = torchs.spectral_norm(nn.Conv2d(2, 3, 3))
    ours = spectral_norm(nn.Conv2d(2, 3, 3), operator=True)
    ours.load_state_dict(theirs.state_dict())
    assert_close(ours.parametrizations.weight.original, theirs.parametrizations.weight.original, rtol=0, atol=0)


def test_sigma_changes_nothing_and_sees_the_effective_weight():
    layer = spectral_norm(nn.Conv2d(3, 4, 3)).train()
    with torch.no_grad():
        layer.parametrizations.weight.original.mul_(3).add_(1)
    kept = {k: v.clone() for k, v in layer.state_dict().items()}
    sigma(layer)
    assert_close(layer.state_dict(), kept, rtol=0, atol=0)
    assert all(module.training for module in layer.modules())
    standardized = WSConv2d(3, 4, 3)
    raw = standardized.weight.detach().double().flatten(1).numpy()
    expected = (raw - raw.mean(1, keepdims=True)) / (raw.std(1, ddof=1, keepdims=True) + 1e-5)
    assert sigma(standardized).matrix == pytest.approx(np.linalg.svd(expected, compute_uv=False)[0], rel=1e-6)


def test_repr_says_what_is_certified():
    layer = spectral_norm(nn.Conv2d(2, 2, 3), operator=True)
    assert "OperatorNorm(eps=1e-12, frequencies=(16, 16), exact=False)" in repr(layer)


@pytest.mark.parametrize("chunk", [1, 100])
def test_chunks_of_frequencies_change_nothing(chunk, monkeypatch):
    from normwise.weights import operator_norm

    layer = nn.Conv2d(4, 6, 3, groups=2)
    whole = sigma(layer)
    monkeypatch.setattr(operator_norm, "CHUNK", chunk)
    assert sigma(layer).operator == pytest.approx(whole.operator, rel=1e-12)


@pytest.mark.parametrize("make", [lambda: nn.Linear(4, 3), lambda: nn.Conv2d(3, 4, 3)])
def test_on_the_meta_device(make):
    with torch.device("meta"):
        layer = spectral_norm(make(), operator=True)
    assert layer.weight.is_meta
    assert layer.weight.shape == make().weight.shape
    assert layer.eval().weight.is_meta
    assert spectral_norm(make().to("meta")).eval().weight.is_meta
