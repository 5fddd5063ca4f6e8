"""Statistics of each position with a gradient: against torch's own operations in fp64."""

import pytest
import torch
import torch.nn.functional as F

from normwise import functional as nf

EPS = 1e-5
TOLERANCE = {torch.float64: 1e-10, torch.float32: 2e-5, torch.bfloat16: 3e-2, torch.float16: 4e-3}


def exactly(x, weight, bias):
    mean, var = x.mean(1, keepdim=True), x.var(1, keepdim=True, correction=0)
    shape = (1, -1, *(1,) * (x.dim() - 2))
    return (x - mean) / (var + EPS).sqrt() * weight.view(shape) + bias.view(shape), mean, var


def drawn(*shape, dtype=torch.float64, seed=0):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).to(dtype)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["planes", "last"])
@pytest.mark.parametrize("shape", [(2, 5, 3, 7), (1, 33, 1, 1), (2, 96, 9, 9)], ids=str)
def test_values_statistics_and_gradients(shape, layout, dtype, backend):
    x = drawn(*shape, dtype=dtype).contiguous(memory_format=layout).requires_grad_()
    weight, bias = (drawn(shape[1], dtype=dtype, seed=s).requires_grad_() for s in (1, 2))
    with backend():
        y, (mean, var, count) = nf.positional_norm(x, weight, bias, eps=EPS)
        kind = torch.float64 if dtype is torch.float64 else torch.float32
        assert (y.dtype, mean.dtype, var.dtype, count) == (dtype, kind, kind, shape[1])
        assert y.stride() == x.stride()
        grads = [drawn(*t.shape, dtype=t.dtype, seed=s) for s, t in enumerate((y, mean, var), 3)]
        mine = torch.autograd.grad((y, mean, var), (x, weight, bias), grads)
    exact = [t.detach().double().requires_grad_() for t in (x, weight, bias)]
    results = exactly(*exact)
    right = torch.autograd.grad(results, exact, [g.double() for g in grads])
    for got, want in zip((y, mean, var, *mine), (*results, *right), strict=True):
        torch.testing.assert_close(
            got.double(), want, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype] * (1 + want.abs().max().item())
        )


def test_a_large_mean_and_a_small_variance(backend):
    """mean/std = 1000, and positions whose channels are all the same."""
    x = drawn(2, 64, 3, 3, dtype=torch.float32) + 1000
    x[0, :, 0, 0] = 7.0
    with backend():
        y, moments = nf.positional_norm(x)
    want, mean, var = exactly(x.double(), torch.ones(64).double(), torch.zeros(64).double())
    torch.testing.assert_close(moments.mean.double(), mean, rtol=1e-7, atol=0)
    torch.testing.assert_close(moments.var.double(), var, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(y.double(), want, rtol=0, atol=2e-5)
    assert (moments.var >= 0).all()


def test_derivatives_of_both_orders_and_transforms(backend):
    x = drawn(2, 3, 2, 2).requires_grad_()

    def call(x):
        y, moments = nf.positional_norm(x, activation="silu", residual=x.sin())
        return y, moments.mean, moments.var

    def loss(x):
        y, mean, var = call(x)
        return (y * var.sqrt() + mean).square().sum()

    with backend():
        assert torch.autograd.gradcheck(call, x)
        assert torch.autograd.gradgradcheck(call, x)
        right = torch.autograd.grad(loss(x), x)[0]
        torch.testing.assert_close(torch.func.grad(loss)(x.detach()), right)
    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(torch.autograd.grad(compiled(x), x)[0], right)


@pytest.mark.parametrize("of", [1, 2], ids=["mean", "var"])
def test_a_loss_on_the_statistics_alone(of, backend):
    x = drawn(2, 8, 3).requires_grad_()
    with backend():
        y, (mean, var, _) = nf.positional_norm(x)
        (mine,) = torch.autograd.grad((y, mean, var)[of].cos().sum(), x)
    torch.testing.assert_close(mine, torch.autograd.grad((y, x.mean(1), x.var(1, correction=0))[of].cos().sum(), x)[0])


def test_a_moment_shortcut_is_the_identity():
    x = drawn(2, 8, 5, 5, dtype=torch.float32)
    y, moments = nf.positional_norm(x)
    torch.testing.assert_close(y * (moments.var + EPS).sqrt() + moments.mean, x, rtol=0, atol=1e-5)
    torch.testing.assert_close(y, nf.layer_norm2d(x, eps=EPS))
    torch.testing.assert_close(y.movedim(1, -1), F.layer_norm(x.movedim(1, -1), (8,)))


def test_nothing_a_mask_and_what_is_refused(backend):
    with backend():
        y, moments = nf.positional_norm(torch.zeros(0, 4, 2, 3))
        assert y.shape == (0, 4, 2, 3)
        assert moments.mean.shape == moments.var.shape == (0, 1, 2, 3)
        x, mask = drawn(2, 4, 3), torch.tensor([[True, True, False]]).expand(2, 3)
        spoilt = torch.where(mask.unsqueeze(1), x, torch.nan)
        torch.testing.assert_close(
            nf.positional_norm(spoilt, mask=mask)[0][:, :, :2], nf.positional_norm(x)[0][:, :, :2]
        )
    with pytest.raises(ValueError, match="positional_norm: a single channel is its own mean"):
        nf.positional_norm(torch.zeros(2, 1, 3))
    with pytest.raises(ValueError, match=r"positional_norm: weight must be \[4\] for"):
        nf.positional_norm(x, torch.ones(3))
