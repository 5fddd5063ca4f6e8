"""DynamicTanh and DynamicErf against the equations in NumPy, rows and maps."""

import copy
import math

import numpy as np
import pytest
import torch
from layer_cases import LAYOUTS, gradients
from torch import nn
from torch.testing import assert_close

import normwise as nw

C = 6
ROWS, MAPS = (3, 5, C), (2, C, 4, 3)
CLASSES = [nw.DynamicTanh, nw.DynamicErf]
# Values of order one, elementwise: a few roundings of fp32; narrower results are computed in fp32 and rounded once.
TOLERANCE = {
    torch.float64: {"rtol": 1e-12, "atol": 1e-12},
    torch.float32: {"rtol": 1e-5, "atol": 1e-5},
    torch.bfloat16: {"rtol": 2**-8 * 1.01, "atol": 1e-5},
    torch.float16: {"rtol": 2**-11 * 1.01, "atol": 1e-5},
}
PRECISIONS = [(t, t) for t in TOLERANCE] + [(torch.bfloat16, torch.float32), (torch.float16, torch.float32)]
both = pytest.mark.parametrize("cls", CLASSES)


def trained(cls, *args, **options):
    layer = cls(C, *args, **options)
    with torch.no_grad():
        for p in layer.parameters():
            p.normal_() if p.numel() > 1 else p.fill_(0.7)
    return layer


def by_the_paper(layer, x):
    """γ·tanh(αx) + β and γ·erf(αx + s) + β, value by value in float64."""
    alpha, weight, bias = (p.detach().double().numpy() for p in (layer.alpha, layer.weight, layer.bias))
    values, y = x.detach().double().numpy(), np.empty(x.shape)
    for index in np.ndindex(x.shape):
        c = index[layer.dim]
        if isinstance(layer, nw.DynamicTanh):
            inner = math.tanh(alpha[0] * values[index])
        else:
            inner = math.erf(alpha[0] * values[index] + float(layer.shift.detach()))
        y[index] = weight[c] * inner + bias[c]
    return torch.from_numpy(y)


@both
@pytest.mark.parametrize("precision", PRECISIONS, ids=str)
@pytest.mark.parametrize(
    ("shape", "dim", "layout"),
    [
        (ROWS, -1, "contiguous"),
        (ROWS, 2, "strided"),
        ((4, C), 1, "transposed"),
        ((C,), 0, "contiguous"),
        (MAPS, 1, "contiguous"),
        (MAPS, 1, "channels_last"),
        ((2, C, 2, 3, 2), 1, "channels_last_3d"),
    ],
)
def test_agrees_with_the_paper(cls, shape, dim, layout, precision):
    dtype, parameter_dtype = precision
    layer = trained(cls, dim).to(parameter_dtype)
    x = LAYOUTS[layout](torch.randn(shape).to(dtype))
    y = layer(x)
    assert y.dtype == dtype
    assert_close(y.double(), by_the_paper(layer, x), **TOLERANCE[dtype])
    if layout != "strided":
        assert y.stride() == x.stride()


@both
@pytest.mark.parametrize("precision", PRECISIONS, ids=str)
@pytest.mark.parametrize(("shape", "dim"), [(ROWS, -1), (MAPS, 1)])
def test_gradients(cls, shape, dim, precision):
    """Against the analytic derivatives, tanh' = 1 - tanh² and erf' = 2/√π exp(-z²), in float64."""
    dtype, parameter_dtype = precision
    layer = trained(cls, dim).to(parameter_dtype)
    x, cotangent = torch.randn(shape).to(dtype).requires_grad_(), torch.randn(shape).to(dtype)
    found = gradients(layer(x), [x, *layer.parameters()], cotangent)

    v, g = x.detach().double().movedim(dim, -1), cotangent.double().movedim(dim, -1)
    alpha, weight = layer.alpha.detach().double(), layer.weight.detach().double()
    z = alpha * v if cls is nw.DynamicTanh else alpha * v + layer.shift.detach().double()
    inner = torch.tanh(z) if cls is nw.DynamicTanh else torch.special.erf(z)
    slope = 1 - inner**2 if cls is nw.DynamicTanh else 2 / math.sqrt(math.pi) * torch.exp(-(z**2))
    common = tuple(range(v.dim() - 1))
    expected = {
        "x": (g * weight * slope * alpha).movedim(-1, dim),
        "alpha": (g * weight * slope * v).sum().view(1),
        "weight": (g * inner).sum(common),
        "bias": g.sum(common),
        "shift": (g * weight * slope).sum().view(1),
    }
    for name, grad in zip(["x", *dict(layer.named_parameters())], found, strict=True):
        assert_close(grad.double(), expected[name], **TOLERANCE[grad.dtype])


@both
@pytest.mark.parametrize("dim", [-1, 1])
def test_derivatives_by_finite_differences(cls, dim):
    layer = trained(cls, dim, activation="tanh").double()
    x, residual = (torch.randn(3, C, C, dtype=torch.float64, requires_grad=True) for _ in range(2))
    parameters = {name: p.detach().clone().requires_grad_() for name, p in layer.named_parameters()}

    def call(x, residual, *tensors):
        return torch.func.functional_call(layer, dict(zip(parameters, tensors, strict=True)), (x, residual))

    assert torch.autograd.gradcheck(call, (x[:1], residual[:1], *parameters.values()), fast_mode=True)
    assert torch.autograd.gradgradcheck(call, (x[:1], residual[:1], *parameters.values()), fast_mode=True)


@both
def test_a_fresh_layer(cls):
    """α .5 of shape (1,), s 0, γ 1, β 0; the names of the authors' checkpoints."""
    state = cls(C).state_dict()
    expected = {"alpha": torch.tensor([0.5]), "weight": torch.ones(C), "bias": torch.zeros(C)}
    if cls is nw.DynamicErf:
        expected["shift"] = torch.zeros(1)
    assert state.keys() == expected.keys()
    assert_close(dict(state), expected)
    assert_close(cls(C, alpha=1).alpha.detach(), torch.ones(1))
    assert nw.DynamicErf(C, shift=-2.0).shift.item() == -2


def test_identities():
    x = torch.randn(ROWS)
    assert_close(nw.DynamicTanh(C)(x), torch.tanh(x / 2))
    assert_close(nw.DynamicErf(C, alpha=math.sqrt(0.5))(x), 2 * torch.distributions.Normal(0, 1).cdf(x) - 1)
    for cls in CLASSES:
        maps, rows = trained(cls, 1), cls(C)
        rows.load_state_dict(maps.state_dict())
        assert_close(maps(x.mT).mT, rows(x))


@both
def test_it_normalizes_nothing_but_is_bounded(cls):
    """No scale invariance, unlike LayerNorm; the output stays within |γ| + |β|."""
    layer, x = trained(cls), torch.randn(100, C)
    assert (layer(2 * x) - layer(x)).abs().max() > 0.1
    assert (layer(1e6 * x).abs() <= layer.weight.abs() + layer.bias.abs() + 1e-6).all()


@both
def test_options(cls):
    x = torch.randn(ROWS)
    assert list(cls(C, bias=False).state_dict()) == [n for n in cls(C).state_dict() if n != "bias"]
    plain = cls(C, elementwise_affine=False)
    assert {"weight", "bias"}.isdisjoint(plain.state_dict())
    for layer in (cls(C, bias=False), plain, copy.deepcopy(plain), cls(C, dtype=torch.float64).float()):
        assert_close(layer(x), cls(C)(x))
    residual = torch.randn(ROWS)
    assert_close(cls(C, activation="silu")(x, residual), nn.functional.silu(cls(C)(x) + residual))


def test_repr():
    assert repr(nw.DynamicTanh(C, dim=1, bias=False, activation="relu")) == (
        "DynamicTanh(6, dim=1, elementwise_affine=True, bias=False, activation='relu')"
    )


@both
def test_empty_and_extreme_input(cls):
    layer = trained(cls)
    empty = torch.zeros(0, 3, C, requires_grad=True)
    assert layer(empty).shape == (0, 3, C)
    x = torch.tensor([[0.0, -torch.inf, torch.inf, 1e30, -1e30, 1e-40]], requires_grad=True)
    y = layer(x)
    assert_close(y.double(), by_the_paper(layer, x), **TOLERANCE[torch.float32])
    (grad,) = gradients(y, [x], torch.ones(1, C))
    assert grad.isfinite().all()


@both
@pytest.mark.parametrize(
    ("x", "dim", "error", "message"),
    [
        (
            torch.ones(2, 5),
            -1,
            ValueError,
            r"\(6, dim=-1\) expected 6 channels in dimension -1, got input \[2, 5\]; dim=-1",
        ),
        (
            torch.ones(2, 5, 6),
            1,
            ValueError,
            r"dimension 1, got input \[2, 5, 6\]; dim=-1 is for rows \[\*, C\], dim=1",
        ),
        (torch.ones(6), 1, ValueError, r"expected 6 channels in dimension 1, got input \[6\]"),
        (torch.ones(2, 6, dtype=torch.int64), -1, TypeError, r"floating tensor, received torch\.int64"),
        ([1.0], -1, TypeError, "expects a tensor, received list"),
    ],
)
def test_wrong_input(cls, x, dim, error, message):
    with pytest.raises(error, match=message):
        cls(C, dim)(x)
    with pytest.raises(ValueError, match="residual must have the input's shape"):
        cls(C)(torch.ones(2, C), torch.ones(C))
