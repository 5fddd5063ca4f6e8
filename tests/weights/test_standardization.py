"""Weight standardization and its scaled form against the papers' equations in float64 NumPy."""

import copy
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from standardized_by_the_paper import per_unit, scaled_by_the_paper, ws_by_the_paper
from torch import nn
from torch.testing import assert_close

from normwise.core.activations import gain as activation_gain
from normwise.weights import (
    ScaledWSConv2d,
    WSConv2d,
    scaled_weight_standardization,
    weight_standardization,
)

LAYERS = {
    "linear": (lambda: nn.Linear(7, 5), (3, 7)),
    "conv1d": (lambda: nn.Conv1d(4, 6, 3), (2, 4, 9)),
    "conv2d": (lambda: nn.Conv2d(4, 6, (3, 2)), (2, 4, 5, 6)),
    "conv2d-grouped": (lambda: nn.Conv2d(4, 6, 3, groups=2), (2, 4, 5, 6)),
    "conv2d-depthwise": (lambda: nn.Conv2d(4, 4, 3, groups=4), (2, 4, 5, 6)),
    "conv3d": (lambda: nn.Conv3d(2, 5, 2), (2, 2, 3, 4, 3)),
    "transposed1d": (lambda: nn.ConvTranspose1d(4, 6, 3), (2, 4, 5)),
    "transposed2d": (lambda: nn.ConvTranspose2d(4, 3, 3), (2, 4, 5, 4)),
    "transposed2d-grouped": (lambda: nn.ConvTranspose2d(4, 6, 3, groups=2), (2, 4, 5, 4)),
    "transposed3d-grouped": (lambda: nn.ConvTranspose3d(4, 4, 2, groups=2), (2, 4, 2, 3, 2)),
}
every_layer = pytest.mark.parametrize(("make", "shape"), LAYERS.values(), ids=LAYERS)


@every_layer
def test_ws_is_the_papers(make, shape):
    layer = make()
    raw = layer.weight.detach().clone()
    layer = weight_standardization(layer)
    expected = per_unit(raw, layer, ws_by_the_paper)
    np.testing.assert_allclose(layer.weight.detach().numpy(), expected, rtol=1e-5, atol=1e-6)
    assert torch.isfinite(layer(torch.randn(shape))).all()


@every_layer
@pytest.mark.parametrize("gain", [True, False], ids=["gain", "plain"])
def test_scaled_ws_is_the_papers(make, shape, gain):
    layer = make()
    outputs = layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels
    raw = layer.weight.detach().clone()
    layer = scaled_weight_standardization(layer, gain=gain, gamma="relu")
    norm, values = layer.parametrizations.weight[0], None
    if gain:
        assert_close(norm.gain.detach(), torch.ones(outputs), rtol=0, atol=0)
        with torch.no_grad():
            norm.gain.copy_(torch.linspace(0.5, 2, outputs))
        values = norm.gain.detach().double().numpy()
    expected = per_unit(raw, layer, scaled_by_the_paper(values, activation_gain("relu")))
    np.testing.assert_allclose(layer.weight.detach().numpy(), expected, rtol=1e-5, atol=1e-6)
    assert len(list(layer.parameters())) == (3 if gain else 2)
    assert torch.isfinite(layer(torch.randn(shape))).all()


def test_the_articles_formula_in_one_call():
    """gamma (W - mu) / (sigma sqrt N), without a floor: units of any size, and a constant one."""
    conv = nn.Conv2d(3, 5, 3).double()
    with torch.no_grad():
        conv.weight.mul_(torch.tensor([1.0, 1e-6, 1e6, 1e-30, 1.0]).view(5, 1, 1, 1))
        conv.weight[4] = 0.7
    w = conv.weight.detach().numpy().reshape(5, 27)
    gamma = np.sqrt(2) / np.sqrt(1 - 1 / np.pi)
    expected = gamma * (w[:4] - w[:4].mean(1, keepdims=True)) / (w[:4].std(1, keepdims=True) * np.sqrt(27))
    layer = scaled_weight_standardization(conv, gain=False, gamma="relu", eps=0.0)
    found = layer.weight.flatten(1)
    assert_close(found[:4], torch.from_numpy(expected), rtol=1e-9, atol=1e-12)
    assert (found[4] == 0).all()
    assert [name for name, _ in layer.named_parameters()] == ["bias", "parametrizations.weight.original"]
    found.square().sum().backward()
    assert layer.parametrizations.weight.original.grad.isfinite().all()


@pytest.mark.parametrize("name", ["ReLU", "SiLU", "GELU"])
def test_the_variances_that_the_page_tells(name):
    """Var[f(z)] of a standard normal z, by the trapezoidal rule, and γ = 1/√Var."""
    z, step = np.linspace(-12.0, 12.0, 240_001, retstep=True)
    weights = step * np.exp(-z * z / 2) / np.sqrt(2 * np.pi)
    normal = np.array([0.5 * (1 + math.erf(v / math.sqrt(2))) for v in z])
    f = {"ReLU": np.maximum(z, 0), "SiLU": z / (1 + np.exp(-z)), "GELU": z * normal}[name]
    variance = ((f - (f * weights).sum()) ** 2 * weights).sum()
    assert activation_gain(name.lower()) == pytest.approx(variance**-0.5, rel=1e-6)
    page = (Path(__file__).parents[2] / "docs" / "train_without_normalizers.md").read_text(encoding="utf-8")
    (line,) = [line for line in page.splitlines() if line.startswith(f"| {name}")]
    assert re.findall(r"\d\.\d{4}", line) == [f"{variance:.4f}", f"{variance**-0.5:.4f}"]


@every_layer
@pytest.mark.parametrize("scaled", [False, True], ids=["ws", "scaled"])
def test_gradients_by_finite_differences(make, shape, scaled):
    layer = make().double()
    layer = scaled_weight_standardization(layer) if scaled else weight_standardization(layer)
    norm = layer.parametrizations.weight[0]
    weight = layer.parametrizations.weight.original.detach().clone().requires_grad_()
    inputs = (weight, norm.gain) if scaled else (weight,)
    assert torch.autograd.gradcheck(lambda w, *_: norm(w), inputs)
    assert torch.autograd.gradgradcheck(lambda w, *_: norm(w), inputs, fast_mode=True)


def test_eps_is_a_floor_in_the_scaled_form():
    """It changes nothing unless variance times fan-in is under it; then it limits the scale."""
    linear = nn.Linear(50, 3)
    reference = scaled_weight_standardization(copy.deepcopy(linear)).weight
    assert_close(scaled_weight_standardization(copy.deepcopy(linear), eps=1e-9).weight, reference, rtol=0, atol=0)
    with torch.no_grad():
        linear.weight.mul_(1e-5)
    centered = linear.weight - linear.weight.mean(1, keepdim=True)
    assert_close(scaled_weight_standardization(linear).weight, centered / 1e-2)


@pytest.mark.parametrize("scaled", [False, True], ids=["ws", "scaled"])
@pytest.mark.parametrize("value", [0.0, 1.0, -3.0])
def test_constant_units_are_zero_with_finite_gradients(scaled, value):
    layer = nn.Linear(8, 3)
    with torch.no_grad():
        layer.weight[0] = value
    layer = scaled_weight_standardization(layer) if scaled else weight_standardization(layer)
    weight = layer.weight
    assert weight[0].tolist() == [0.0] * 8
    weight.backward(torch.randn_like(weight))
    gradient = layer.parametrizations.weight.original.grad
    assert torch.isfinite(gradient).all()
    assert gradient[0].abs().max() > 0


def test_large_mean_does_not_cancel():
    layer = nn.Linear(64, 4)
    with torch.no_grad():
        layer.weight.copy_(1000 + torch.randn(4, 64))
    raw = layer.weight.detach().clone()
    expected = per_unit(raw, layer, ws_by_the_paper)
    # The inputs are exact; the mean of 64 values of size 1000 is off by about 1e-4 at most.
    np.testing.assert_allclose(weight_standardization(layer).weight.detach().numpy(), expected, atol=3e-4)


@pytest.mark.parametrize(
    "make",
    [
        lambda: weight_standardization(nn.Conv2d(4, 4, 1, groups=4)),
        lambda: weight_standardization(nn.Linear(1, 4)),
        lambda: weight_standardization(nn.ConvTranspose1d(4, 4, 1, groups=4)),
        lambda: scaled_weight_standardization(nn.Conv1d(1, 4, 1)),
        lambda: WSConv2d(4, 4, 1, groups=4),
        lambda: ScaledWSConv2d(1, 4, 1),
    ],
)
def test_fan_in_of_one_is_an_error(make):
    with pytest.raises(ValueError, match=r"fan-in of 1 weight.*at least 2.*Leave this layer out"):
        make()


@pytest.mark.parametrize("normalize", [weight_standardization, scaled_weight_standardization])
def test_errors(normalize):
    with pytest.raises(TypeError, match="received Embedding; apply it to the layers inside"):
        normalize(nn.Embedding(3, 3))
    with pytest.raises(TypeError, match=r"nn\.ConvTransposeNd, received Tensor"):
        normalize(torch.zeros(3))
    with pytest.raises(ValueError, match="named 'wait'"):
        normalize(nn.Linear(3, 3), "wait")
    with pytest.raises(ValueError, match="WSConv2d standardizes its weight in forward"):
        normalize(WSConv2d(3, 3, 3))
    with pytest.raises(ValueError, match="run one forward first"):
        normalize(nn.LazyConv2d(3, 3))


def test_unknown_activation_and_argument():
    with pytest.raises(ValueError, match="Unknown activation 'swish'"):
        scaled_weight_standardization(nn.Linear(3, 3), gamma="swish")
    with pytest.raises(TypeError, match="unexpected keyword argument 'epsilon'"):
        WSConv2d(3, 3, 3, epsilon=1)


# One rounding to the dtype of a result computed in fp32 from the exact (already rounded) weights.
ROUNDING = {torch.bfloat16: 2**-8, torch.float16: 2**-11, torch.float32: 1e-5, torch.float64: 1e-12}


@pytest.mark.parametrize("dtype", ROUNDING, ids=str)
@pytest.mark.parametrize("scaled", [False, True], ids=["ws", "scaled"])
def test_dtypes_compute_in_fp32_at_least(dtype, scaled):
    layer = nn.Conv2d(16, 8, 3, dtype=dtype)
    raw = layer.weight.detach().clone()
    layer = scaled_weight_standardization(layer) if scaled else weight_standardization(layer)
    expected = per_unit(raw, layer, scaled_by_the_paper() if scaled else ws_by_the_paper)
    assert layer.weight.dtype == dtype
    np.testing.assert_allclose(layer.weight.detach().double().numpy(), expected, rtol=ROUNDING[dtype], atol=1e-6)
