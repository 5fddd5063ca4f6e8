"""DynamicTanh and DynamicErf by one kernel each way: against NumPy in fp64, forward and backward."""

import math

import numpy as np
import pytest
import torch

import normwise as nw
from normwise import use_backend
from normwise.backends import available_backends, cpu

pytestmark = pytest.mark.skipif(
    available_backends()["cpu"] is not None, reason="the C++ kernels do not run on this machine"
)
TOLERANCE = {torch.float64: 1e-12, torch.float32: 3e-6, torch.bfloat16: 2**-8, torch.float16: 2**-11}
#: Shape and dimension of the channels; one value, ends within a vector, more than a chunk, a plane and a map.
CASES = {
    "one": ((3, 1), -1),
    "rows": ((5, 3, 37), -1),
    "long": ((3, 5000), -1),
    "plane": ((2, 5, 9, 9), 1),
    "large": ((2, 3, 70, 70), 1),
    "first": ((7, 11), 0),
}
erf, erfc = np.vectorize(math.erf), np.vectorize(math.erfc)
CURVES = {
    "tanh": (np.tanh, lambda u: 1 / np.cosh(u) ** 2),
    "erf": (erf, lambda u: 2 / math.sqrt(math.pi) * np.exp(-u * u)),
}


def silu(z):
    s = 1 / (1 + np.exp(-z))
    return z * s, s * (1 + z * (1 - s))


def drawn(*shape, dtype, seed):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).to(dtype)


def layer_for(curve, channels, dim, dtype, activation):
    layer = (nw.DynamicTanh if curve == "tanh" else nw.DynamicErf)(channels, dim, 0.7, activation=activation).to(dtype)
    with torch.no_grad():
        for seed, p in enumerate((layer.weight, layer.bias)):
            p.copy_(drawn(channels, dtype=dtype, seed=5 + seed))
        if curve == "erf":
            layer.shift.fill_(0.3)
    return layer


def oracle(layer, curve, x, residual, grad_y, activation):
    """y, and the gradients of x, residual, α, s, γ and β; channels last."""
    bend, slope = CURVES[curve]
    alpha, weight, bias = (p.detach().double().numpy() for p in (layer.alpha, layer.weight, layer.bias))
    u = alpha * x + (layer.shift.item() if curve == "erf" else 0.0)
    z = weight * bend(u) + bias + residual
    y, steep = silu(z) if activation else (z, np.ones_like(z))
    g = grad_y * steep
    inside = g * weight * slope(u)
    others = tuple(range(x.ndim - 1))
    return y, inside * alpha, g, (inside * x).sum(), inside.sum(), (g * bend(u)).sum(others), g.sum(others)


@pytest.mark.parametrize("curve", CURVES)
@pytest.mark.parametrize("activation", [None, "silu"])
@pytest.mark.parametrize("residual", [None, "given", "itself"])
@pytest.mark.parametrize("layout", ["contiguous", "last"])
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize(("shape", "dim"), CASES.values(), ids=list(CASES))
def test_values_and_gradients(shape, dim, dtype, layout, residual, activation, curve):
    x, other, grad_y = (drawn(*shape, dtype=dtype, seed=s) for s in range(3))
    if layout == "last":
        x, other = (t.movedim(dim, -1).contiguous().movedim(-1, dim) for t in (x, other))
    x.requires_grad_()
    added = {None: None, "given": other.requires_grad_(), "itself": x}[residual]
    layer = layer_for(curve, shape[dim], dim, dtype, activation)
    y = layer(x, added)
    assert y.stride() == x.stride()
    assert y.dtype == dtype
    shift = [layer.shift] if curve == "erf" else []
    leaves = [x, *([other] if residual == "given" else []), layer.alpha, *shift, layer.weight, layer.bias]
    grads = torch.autograd.grad(y, leaves, grad_y)

    exact = [t.detach().double().movedim(dim, -1).numpy() for t in (x, grad_y)]
    of_residual = 0.0 if added is None else added.detach().double().movedim(dim, -1).numpy()
    want_y, want_x, want_r, *sums = oracle(layer, curve, exact[0], of_residual, exact[1], activation)
    wanted = [want_x + want_r if residual == "itself" else want_x, *([want_r] if residual == "given" else [])]
    wanted += [sums[0], *([sums[1]] if shift else []), *sums[2:]]
    terms = np.abs(exact[1]).sum() * 4
    for got, want in zip((y, *grads), (want_y, *wanted), strict=True):
        large = got.shape == x.shape
        got = got.detach().double().movedim(dim, -1).numpy() if large else got.detach().double().numpy()
        size = max(np.abs(want).max(), 1.0) if large else terms
        assert np.abs(got - want).max() <= 2 * TOLERANCE[dtype] * size


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("curve", CURVES)
def test_every_digit_of_the_curve(curve, dtype):
    """From tiny to saturated arguments, relative to the result: nothing cancels near 0."""
    x = torch.cat([torch.linspace(-6, 6, 4001), torch.logspace(-20, 0, 500), torch.tensor([0.7, -0.7])]).to(dtype)
    layer = (nw.DynamicTanh if curve == "tanh" else nw.DynamicErf)(1, alpha=1.0).to(dtype)
    found = layer(x.unsqueeze(1)).detach().squeeze(1).double().numpy()
    want = CURVES[curve][0](x.double().numpy())
    unit = torch.finfo(dtype).eps
    assert (np.abs(found - want) <= 4 * unit * np.abs(want)).all()
    special = layer(torch.tensor([[torch.inf], [-torch.inf], [torch.nan]], dtype=dtype)).flatten().tolist()
    assert special[:2] == [1.0, -1.0]
    assert math.isnan(special[2])


@pytest.mark.parametrize("curve", CURVES)
@pytest.mark.parametrize("dim", [-1, 1])
def test_derivatives_of_both_orders(curve, dim):
    x, residual = (drawn(2, 3, 3, dtype=torch.float64, seed=s).requires_grad_() for s in (0, 1))
    layer = layer_for(curve, 3, dim, torch.float64, "silu")
    assert torch.autograd.gradcheck(layer, (x, residual))
    assert torch.autograd.gradgradcheck(layer, (x, residual))


def test_the_kernel_serves_and_the_reference_where_it_is_chosen(monkeypatch):
    calls, kernel = [], cpu.squash
    monkeypatch.setattr(cpu, "squash", lambda *a: calls.append(a[1:3]) or kernel(*a))
    x, layer = torch.randn(2, 4, 3, 3), nw.DynamicTanh(4, dim=1)
    y = layer(x)
    assert calls == [(1, "tanh")]
    layer(x.contiguous(memory_format=torch.channels_last))
    assert calls[1:] == [(3, "tanh")]
    with use_backend("reference"):
        torch.testing.assert_close(layer(x), y)
    torch.testing.assert_close(torch.func.vmap(layer)(x.unsqueeze(1)).squeeze(1), y)
    torch.testing.assert_close(layer(x[..., ::2]), y[..., ::2])  # not dense
    assert len(calls) == 2


def test_the_bits_do_not_depend_on_the_threads():
    x, found, before = torch.randn(3000, 40).requires_grad_(), [], torch.get_num_threads()
    layer = nw.DynamicErf(40, activation="gelu")
    for threads in (1, 2):
        torch.set_num_threads(threads)
        y = layer(x)
        found.append((y, *torch.autograd.grad(y, (x, *layer.parameters()), x.detach().sin())))
    torch.set_num_threads(before)
    for one, two in zip(*found, strict=True):
        assert torch.equal(one, two)
