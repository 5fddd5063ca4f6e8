"""Row kernels against the written-out equations in fp64, whole rows and rows that no program can hold."""

import pytest
import torch

import normwise as nw
from normwise import use_backend
from normwise.backends.triton_kernels import geometry, on_rows

from .support import DEVICE, DTYPES, close, kernels, needs_triton, seeded

pytestmark = needs_triton

EPS = 1e-5
# width 1, primes, not a power of two, a power of two, and more than a tile
SHAPES = [(3, 1), (5, 7), (2, 3, 100), (33, 64), (2, 1031)]
PIXELS = [(2, 3, 1), (3, 5, 7), (2, 70, 7, 7)]
NEEDS = (True, False, True, True)


@pytest.fixture(params=["whole", "wide"])
def room(request, monkeypatch):
    """Both ways for the same small shapes: rows that fit, and rows that are walked through."""
    if request.param == "wide":
        monkeypatch.setattr(geometry, "TILE", 128)
        chosen = geometry.row_tiling
        monkeypatch.setattr(geometry, "row_tiling", lambda pools, kind, budget: chosen(pools, kind, 0))
    return request.param


def truth(x, weight, bias, center, dim=-1):
    x = x.double()
    centered = x - x.mean(dim, keepdim=True) if center else x
    y = centered / (centered.square().mean(dim, keepdim=True) + EPS).sqrt()
    shape = [1] * x.dim()
    shape[dim] = -1
    y = y if weight is None else y * weight.double().view(shape)
    return y if bias is None else y + bias.double().view(shape)


def expected(x, weight, bias, center, grad_y, dim=-1):
    leaves = [None if t is None else t.detach().double().requires_grad_() for t in (x, weight, bias)]
    y = truth(*leaves, center, dim)
    wanted = [t for t in leaves if t is not None]
    found = iter(torch.autograd.grad(y, wanted, grad_y.double()))
    return y.detach(), [None if t is None else next(found) for t in leaves]


def check(got, grads, want, want_grads, dtype):
    close(got, want, dtype, steps=2, what="y")
    for name, grad, true in zip(("x", "weight", "bias"), (grads[0], *grads[2:]), want_grads, strict=True):
        assert (grad is None) == (true is None), name
        if true is not None:
            close(grad, true, dtype, steps=8, what=name)


@pytest.mark.parametrize("center", [True, False], ids=["layer", "rms"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_rows(shape, dtype, center, room):
    x, grad_y = seeded(*shape, dtype=dtype) + 0.5, seeded(*shape, seed=1, dtype=dtype)
    weight = seeded(shape[-1], seed=2, dtype=dtype)
    bias = seeded(shape[-1], seed=3, dtype=dtype) if center else None
    y, tables = kernels.rows(x, shape[-1], weight, bias, EPS, center, True)
    assert y.shape == x.shape
    assert y.dtype == dtype
    mean, rstd = tables
    assert rstd.shape == (x.numel() // shape[-1],)
    assert (mean is None) == (not center)
    needs = (True, False, True, center)
    grads = kernels.rows_backward(grad_y, x, shape[-1], weight, bias, tables, center, needs)
    check(y, grads, *expected(x, weight, bias, center, grad_y), dtype)


@pytest.mark.parametrize("center", [True, False], ids=["layer", "rms"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", PIXELS, ids=str)
def test_columns(shape, dtype, center, room):
    x, grad_y = ((seeded(*shape, seed=s, dtype=dtype) + 0.5).flatten(2) for s in (0, 1))
    weight = seeded(shape[1], seed=2, dtype=dtype)
    bias = seeded(shape[1], seed=3, dtype=dtype) if center else None
    y, tables = kernels.columns(x, weight, bias, EPS, center, True)
    needs = (True, False, True, center)
    grads = kernels.columns_backward(grad_y, x, weight, bias, tables, center, needs)
    check(y, grads, *expected(x, weight, bias, center, grad_y, dim=1), dtype)


def test_data_far_from_zero_costs_no_digits(room):
    """mean/std = 1000: the stored mean is rounded, and what it lost is made good."""
    x, grad_y = seeded(6, 90).float() + 1000, seeded(6, 90, seed=1).float()
    ones, zeros = torch.ones(90, device=x.device), torch.zeros(90, device=x.device)
    y, tables = kernels.rows(x, 90, ones, zeros, EPS, True, True)
    grads = kernels.rows_backward(grad_y, x, 90, ones, zeros, tables, True, NEEDS)
    want, want_grads = expected(x, ones, zeros, True, grad_y)
    for got, true in zip((y, grads[0], *grads[2:]), (want, *want_grads), strict=True):
        assert (got.double() - true).square().mean().sqrt() <= 1e-6 * true.square().mean().sqrt()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("center", [True, False], ids=["layer", "rms"])
def test_data_far_from_zero_in_every_type_and_layout(center, dtype, room):
    """Of the values that the type holds; rows are the pixels of channels_last, columns those of contiguous maps."""
    x, grad_y = seeded(2, 70, 7, seed=0, dtype=dtype) + 1000, seeded(2, 70, 7, seed=1, dtype=dtype)
    weight = seeded(70, seed=2, dtype=dtype)
    y, tables = kernels.columns(x, weight, None, EPS, center, True)
    grads = kernels.columns_backward(grad_y, x, weight, None, tables, center, (True, False, True, False))
    check(y, grads, *expected(x, weight, None, center, grad_y, dim=1), dtype)
    x, grad_y = (t.movedim(1, -1).contiguous() for t in (x, grad_y))
    y, tables = kernels.rows(x, 70, weight, None, EPS, center, True)
    grads = kernels.rows_backward(grad_y, x, 70, weight, None, tables, center, (True, False, True, False))
    check(y, grads, *expected(x, weight, None, center, grad_y), dtype)


def test_only_the_gradients_that_are_needed(room):
    x, weight, bias = seeded(4, 10).float(), seeded(10, seed=1).float(), seeded(10, seed=2).float()
    y, tables = kernels.rows(x, 10, weight, bias, EPS, True, True)
    full = kernels.rows_backward(y, x, 10, weight, bias, tables, True, NEEDS)
    for k in (0, 2, 3):
        needs = [j == k for j in range(4)]
        some = kernels.rows_backward(y, x, 10, weight, bias, tables, True, tuple(needs))
        assert [g is not None for g in some] == needs
        assert torch.equal(some[k], full[k])


@pytest.mark.parametrize("make", [nw.LayerNorm, nw.RMSNorm])
def test_rows_of_two_dimensions(make, room):
    """Parameters and their gradients have the shape of a row."""
    layer, x = make((5, 7)).to(DEVICE), seeded(3, 5, 7, dtype=torch.float32)
    exact = (
        {nw.LayerNorm: torch.nn.LayerNorm, nw.RMSNorm: torch.nn.RMSNorm}[make]((5, 7), eps=layer.eps)
        .double()
        .to(DEVICE)
    )
    cotangent = torch.linspace(-1, 1, x.numel(), device=DEVICE).view(x.shape)
    with use_backend("triton"):
        grads = torch.autograd.grad(layer(x), list(layer.parameters()), cotangent)
    wanted = torch.autograd.grad(exact(x.double()), list(exact.parameters()), cotangent.double())
    for got, want in zip(grads, wanted, strict=True):
        close(got, want, torch.float32, steps=8, what="parameters")


def test_more_rows_than_programs(monkeypatch):
    monkeypatch.setattr(on_rows, "ROW_PROGRAMS", 2)
    monkeypatch.setattr(geometry, "TILE", 16)
    x, grad_y = seeded(37, 5).float(), seeded(37, 5, seed=1).float()
    weight, bias = seeded(5, seed=2).float(), seeded(5, seed=3).float()
    y, tables = kernels.rows(x, 5, weight, bias, EPS, True, True)
    grads = kernels.rows_backward(grad_y, x, 5, weight, bias, tables, True, NEEDS)
    check(y, grads, *expected(x, weight, bias, True, grad_y), torch.float32)


@pytest.mark.parametrize("make", [lambda: nw.LayerNorm2d(6), lambda: nw.RMSNorm2d(6)], ids=["layer", "rms"])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_layers_take_the_kernels_and_keep_the_second_derivative(make, layout, monkeypatch):
    calls = []
    for name in ("rows", "columns"):
        kernel = getattr(kernels, name)
        monkeypatch.setattr(kernels, name, lambda *a, k=kernel, n=name: calls.append(n) or k(*a))
    layer = make().double().to(seeded(1).device)
    x = seeded(2, 6, 3, 2).contiguous(memory_format=layout).requires_grad_()
    with use_backend("triton"):
        assert layer(x).stride() == x.stride()
        assert set(calls) == {"columns" if layout == torch.contiguous_format else "rows"}
        assert torch.autograd.gradgradcheck(layer, x, fast_mode=True)
