"""Rows and pixels with a residual and an activation: against NumPy in fp64, forward and backward, on every backend."""

import math
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from marks import needs_kernels

import normwise as nw

EPS = 1e-5
#: One value, one that ends within a vector, more than a block of the activation, a row in blocks of columns.
SHAPES = {"one": (3, 1), "odd": (5, 2, 37), "blocks": (3, 5000), "wide": (2, 16400)}
MAPS = {"odd": (2, 5, 3, 7), "point": (1, 33, 1, 1), "plane": (2, 6, 9, 9), "channels": (1, 300, 2, 3)}
#: One rounding of the output, and some of the arithmetic's.
TOLERANCE = {torch.float64: 1e-11, torch.float32: 4e-6, torch.bfloat16: 2**-7, torch.float16: 2**-10}
erf = np.vectorize(math.erf)


def gelu(z):
    cdf = (1 + erf(z / math.sqrt(2))) / 2
    return z * cdf, cdf + z * np.exp(-z * z / 2) / math.sqrt(2 * math.pi)


def silu(z):
    s = 1 / (1 + np.exp(-z))
    return z * s, s * (1 + z * (1 - s))


#: f(z) and f'(z).
CURVES = {
    None: lambda z: (z, np.ones_like(z)),
    "relu": lambda z: (np.maximum(z, 0), (z > 0) * 1.0),
    "leaky_relu": lambda z: (np.where(z > 0, z, z * 0.01), np.where(z > 0, 1, 0.01)),
    "gelu": gelu,
    "silu": silu,
    "tanh": lambda z: (np.tanh(z), 1 - np.tanh(z) ** 2),
}


def oracle(x, residual, weight, bias, grad_y, center, activation):
    """y, and the gradients of x, residual, weight and bias, over the last dimension; all in fp64."""
    centered = x - x.mean(-1, keepdims=True) if center else x
    root = 1 / np.sqrt((centered**2).mean(-1, keepdims=True) + EPS)
    normalized = centered * root
    y, slope = CURVES[activation](normalized * weight + bias + residual)
    g = grad_y * slope
    back = g * weight - normalized * (g * weight * normalized).mean(-1, keepdims=True)
    if center:
        back = back - (g * weight).mean(-1, keepdims=True)
    others = tuple(range(x.ndim - 1))
    return y, back * root, g, (g * normalized).sum(others), g.sum(others)


def drawn(*shape, dtype, seed):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).to(dtype)


def exact(t):
    return t.detach().double().numpy()


def close(got, want, dtype, scale, name):
    error = np.abs(exact(got) - want).max(initial=0)
    assert error <= 2 * TOLERANCE[dtype] * max(scale, 1.0), (name, error, scale)


def layer_for(center, width, dtype, activation, maps):
    names = {(True, False): "LayerNorm", (False, False): "RMSNorm", (True, True): "LayerNorm2d"}
    layer = getattr(nw, names.get((center, maps), "RMSNorm2d"))(width, eps=EPS, activation=activation).to(dtype)
    with torch.no_grad():
        for seed, p in enumerate(layer.parameters()):
            p.copy_(drawn(width, dtype=dtype, seed=7 + seed))
    return layer


def compare(layer, x, residual, dtype, center, activation, backend, turn=lambda t: t):
    """``turn`` brings the values of a row last."""
    grad_y = drawn(*x.shape, dtype=dtype, seed=3)
    leaves = [x.requires_grad_()]
    if residual is not None and residual is not x:
        leaves.append(residual.requires_grad_())
    with backend():
        y = layer(x, residual)
        with torch.no_grad():
            assert torch.equal(layer(x, residual), y)
        grads = torch.autograd.grad(y, [*leaves, *layer.parameters()], grad_y)
    assert y.dtype == dtype
    assert y.stride() == x.stride()
    weight, bias = exact(layer.weight), 0.0 if getattr(layer, "bias", None) is None else exact(layer.bias)
    added = 0.0 if residual is None else exact(turn(residual))
    given = exact(turn(x)), added, weight, bias, exact(turn(grad_y))
    want_y, want_x, want_r, *want_p = oracle(*given, center, activation)
    if residual is x:
        want_x = want_x + want_r
    close(turn(y), want_y, dtype, np.abs(want_y).max(initial=0), "y")
    root = 1 / np.sqrt(given[0].var(-1, keepdims=True) + EPS) if center else 1.0
    terms = np.abs(given[4]).max() * np.abs(weight).max() * np.max(root)
    close(turn(grads[0]), want_x, dtype, 4 * terms, "x")
    if len(leaves) == 2:
        assert grads[1].dtype == residual.dtype
        close(turn(grads[1]), want_r, dtype, np.abs(want_r).max(initial=0), "residual")
    for got, want in zip(grads[len(leaves) :], want_p, strict=False):
        close(got, want, dtype, 4 * np.abs(given[4]).sum(tuple(range(want_x.ndim - 1))).max(), "parameter")


@pytest.mark.parametrize("activation", CURVES)
@pytest.mark.parametrize("residual", [None, "given", "itself"])
@pytest.mark.parametrize("center", [True, False], ids=["layer", "rms"])
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=list(SHAPES))
def test_rows(shape, dtype, center, residual, activation, backend):
    x = drawn(*shape, dtype=dtype, seed=0)
    added = {None: None, "given": drawn(*shape, dtype=dtype, seed=1), "itself": x}[residual]
    compare(layer_for(center, shape[-1], dtype, activation, False), x, added, dtype, center, activation, backend)


@pytest.mark.parametrize("activation", CURVES)
@pytest.mark.parametrize("residual", [None, "given", "itself"])
@pytest.mark.parametrize("center", [True, False], ids=["layer", "rms"])
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["planes", "last"])
@pytest.mark.parametrize("shape", MAPS.values(), ids=list(MAPS))
def test_pixels(shape, layout, dtype, center, residual, activation, backend):
    x, other = (drawn(*shape, dtype=dtype, seed=s).contiguous(memory_format=layout) for s in (0, 1))
    added = {None: None, "given": other, "itself": x}[residual]
    layer = layer_for(center, shape[1], dtype, activation, True)
    compare(layer, x, added, dtype, center, activation, backend, turn=lambda t: t.movedim(1, -1))


@pytest.mark.parametrize("center", [True, False], ids=["layer", "rms"])
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_pixels_of_planes_with_a_residual_and_an_activation(dtype, center, backend):
    """All three at once, of which the covering pairs above leave combinations out."""
    x, residual = (drawn(2, 6, 9, 9, dtype=dtype, seed=s) for s in (0, 1))
    layer = layer_for(center, 6, dtype, "silu", True)
    compare(layer, x, residual, dtype, center, "silu", backend, turn=lambda t: t.movedim(1, -1))


@pytest.mark.parametrize("make", [nw.LayerNorm, nw.LayerNorm2d])
def test_a_residual_in_another_layout_or_type(make, backend):
    """It is read as it is, rounded once, and its gradient comes in its own type and shape."""
    x = drawn(2, 6, 5, 6, dtype=torch.bfloat16, seed=0).requires_grad_()
    residual = drawn(6, 5, 2, 6, dtype=torch.float32, seed=1).permute(2, 0, 1, 3).requires_grad_()
    layer = make(6, activation="gelu").bfloat16()
    with backend():
        y = layer(x, residual)
        grad_y = torch.linspace(-1, 2, y.numel()).view(y.shape)
        grads = torch.autograd.grad(y, [x, residual], grad_y.bfloat16())
    wide = [t.detach().double().requires_grad_() for t in (x, residual)]
    moved = wide[0] if make is nw.LayerNorm else wide[0].movedim(1, -1)
    z = F.layer_norm(moved, (6,), eps=layer.eps)
    exactly = F.gelu((z if make is nw.LayerNorm else z.movedim(-1, 1)) + wide[1])
    wanted = torch.autograd.grad(exactly, wide, grad_y.bfloat16().double())
    assert (y.dtype, grads[0].dtype, grads[1].dtype) == (torch.bfloat16, torch.bfloat16, torch.float32)
    torch.testing.assert_close(y.double(), exactly, rtol=2**-8, atol=2**-8)
    torch.testing.assert_close(grads[0].double(), wanted[0], rtol=2**-7, atol=2**-5)
    torch.testing.assert_close(grads[1].double(), wanted[1], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("maps", [False, True], ids=["rows", "pixels"])
def test_a_mean_of_a_thousand_deviations(maps, backend):
    """No worse than torch's own operators on the same values."""
    x = drawn(4, 96, 3, 3, dtype=torch.float32, seed=0) + 1000
    x = x if maps else x.movedim(1, -1).contiguous()
    make = nw.LayerNorm2d if maps else nw.LayerNorm
    with backend():
        y = make(96, eps=EPS, activation="silu")(x, residual=x - 1000)
    moved = (x.movedim(1, -1) if maps else x).double()
    want = F.silu(F.layer_norm(moved, (96,)) + moved - 1000)
    native = F.silu(F.layer_norm(moved.float(), (96,)) + moved.float() - 1000)
    error = ((y.movedim(1, -1) if maps else y) - want).square().mean().sqrt()
    assert error <= max((native - want).square().mean().sqrt(), 2e-7)


@pytest.mark.parametrize("maps", [False, True], ids=["rows", "pixels"])
def test_derivatives_of_both_orders(maps, backend):
    x, residual = (drawn(2, 3, 2, 3, dtype=torch.float64, seed=s).requires_grad_() for s in (0, 1))
    layer = layer_for(True, 3, torch.float64, "gelu", maps)
    with backend():
        assert torch.autograd.gradcheck(layer, (x, residual))
        assert torch.autograd.gradgradcheck(layer, (x, residual))


@pytest.mark.parametrize("make", [nw.LayerNorm, nw.RMSNorm2d])
def test_only_the_residual_wants_a_gradient(make, backend):
    """Through the activation, and as it came where there is none."""
    x, residual = torch.randn(2, 4, 3, 4), torch.randn(2, 4, 3, 4, requires_grad=True)
    for activation in ("silu", None):
        layer = make(4, activation=activation).requires_grad_(requires_grad=False)
        with backend():
            (found,) = torch.autograd.grad(layer(x, residual).square().sum(), residual)
        plain = make(4).requires_grad_(requires_grad=False)(x) + residual
        right = plain if activation is None else F.silu(plain)
        torch.testing.assert_close(found, torch.autograd.grad(right.square().sum(), residual)[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("make", [nw.LayerNorm, nw.LayerNorm2d])
def test_nothing_and_masks(make, backend):
    """An empty batch has gradients, too; with a mask of positions the values outside it count as 0."""
    layer = make(4, activation="gelu")
    empty = torch.zeros(0, 4, 3, 4, requires_grad=True)
    with backend():
        y = layer(empty, empty)
        y.sum().backward()
        assert y.shape == empty.shape
        assert torch.equal(layer.weight.grad, torch.zeros(4))
        x, residual = torch.randn(2, 4, 3, 4), torch.randn(2, 4, 3, 4)
        mask = torch.ones(2, 1, 3, 4, dtype=torch.bool)
        torch.testing.assert_close(layer(x, residual, mask), layer(x, residual))


@needs_kernels
@pytest.mark.parametrize("make", [nw.LayerNorm, nw.LayerNorm2d, nw.BatchNorm2d, partial(nw.GroupNorm, 2)])
def test_a_residual_without_an_activation_is_not_kept_for_the_backward_pass(make):
    x, residual = torch.randn(2, 4, 3, 4, requires_grad=True), torch.randn(2, 4, 3, 4, requires_grad=True)
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.data_ptr()) or t, lambda t: t):
        make(4)(x, residual)
        assert residual.data_ptr() not in saved
        make(4, activation="gelu")(x, residual)
        assert residual.data_ptr() in saved


@pytest.mark.parametrize("maps", [False, True], ids=["rows", "pixels"])
def test_both_orders_of_a_residual_alone(maps):
    x, residual = (drawn(2, 3, 2, 3, dtype=torch.float64, seed=s).requires_grad_() for s in (0, 1))
    layer = layer_for(True, 3, torch.float64, None, maps)
    call = lambda x, residual: layer(x, residual).sin()  # noqa: E731
    assert torch.autograd.gradcheck(call, (x, residual))
    assert torch.autograd.gradgradcheck(call, (x, residual))


@needs_kernels
def test_the_bits_do_not_depend_on_the_threads():
    x, residual, grad_y = (drawn(8, 40, 40, 40, dtype=torch.float32, seed=s) for s in range(3))
    found, before = [], torch.get_num_threads()
    for threads in (1, 2):
        torch.set_num_threads(threads)
        for make in (nw.LayerNorm, nw.LayerNorm2d):
            layer, a, b = make(40, activation="gelu"), x.clone().requires_grad_(), residual.clone().requires_grad_()
            y = layer(a, b)
            found.append((y, *torch.autograd.grad(y, (a, b, *layer.parameters()), grad_y)))
    torch.set_num_threads(before)
    for one, two in zip(found[0] + found[1], found[2] + found[3], strict=True):
        assert torch.equal(one, two)


@needs_kernels
def test_what_a_kernel_refuses_leaves_nothing_unsaid():
    """A residual that was cut behind the forward pass is noticed, not read."""
    x, residual = torch.randn(4, 64, requires_grad=True), torch.randn(4, 64)
    y = nw.RMSNorm(64, activation="silu")(x, residual)
    residual.untyped_storage().resize_(16)
    with pytest.raises(RuntimeError, match="memory"):
        y.sum().backward()
