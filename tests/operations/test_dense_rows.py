"""Rows and pixels as they lie in memory: every dense layout, and what lies otherwise when the backward pass comes."""

import pytest
import torch
import torch.nn.functional as F
from marks import needs_kernels

import normwise as nw
from normwise.operations import autograd
from normwise.operations.ways import choosing
from normwise.operations.ways.along_dense_rows import AlongDenseRows

pytestmark = needs_kernels
TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: 3e-2}
LAYOUTS = {
    "maps": lambda t: t,
    "channels_last": lambda t: t.to(memory_format=torch.channels_last),
    "volumes": lambda t: t.unflatten(-1, (1, -1)).to(memory_format=torch.channels_last_3d),
    "sequences": lambda t: t.flatten(2).transpose(1, 2).contiguous().transpose(1, 2),
    "points": lambda t: t.flatten(2).movedim(1, -1).flatten(0, 1),
}
#: Gradients of the values of a tensor that do not lie as it does.
ARRIVING = {
    "as it lies": torch.clone,
    "reversed": lambda g: g.permute(*range(g.dim())[::-1]).contiguous().permute(*range(g.dim())[::-1]),
    "expanded": lambda g: g.flatten()[:1].expand(g.numel()).view(g.shape),
    "negative": lambda g: torch._neg_view(g),
}


def drawn(seed, *shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def problem(layout, dtype, *, center=True, activation=None):
    x, residual, grad_y = (LAYOUTS[layout](drawn(seed, 3, 37, 4, 5)).to(dtype) for seed in range(3))
    kind = nw.LayerNorm2d if center else nw.RMSNorm2d
    layer = kind(37, eps=1e-5, activation=activation)
    for seed, p in enumerate(layer.parameters()):
        p.data = drawn(3 + seed, 37)
    return layer.to(dtype), x, residual, grad_y


def exact(layer, x, residual, grad_y):
    """y and all gradients by torch in fp64."""
    inputs = [t.detach().double().requires_grad_() for t in (x, residual, *layer.parameters())]
    rows = inputs[0].movedim(1, -1)
    parameters = dict(zip(("weight", "bias"), inputs[2:], strict=False))
    normalize = F.layer_norm if len(inputs) == 4 else F.rms_norm
    z = normalize(rows, (37,), eps=1e-5, **parameters).movedim(-1, 1) + inputs[1]
    y = z if layer.activation is None else getattr(F, layer.activation)(z)
    return y, torch.autograd.grad(y, inputs, grad_y.double())


def way_of(layer, x):
    choosing._kept.clear()
    layer(x)
    (((_, way),),) = choosing._kept.values()
    return way


@pytest.mark.parametrize("activation", [None, "relu", "gelu"])
@pytest.mark.parametrize("center", [True, False], ids=["mean", "root mean square"])
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("arriving", ARRIVING)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_values_and_gradients(layout, arriving, dtype, center, activation):
    layer, x, residual, grad_y = problem(layout, dtype, center=center, activation=activation)
    grad_y = ARRIVING[arriving](grad_y)
    leaves = [t.requires_grad_() for t in (x, residual)] + list(layer.parameters())
    with nw.use_backend("cpu"):
        y = layer(x, residual)
        grads = torch.autograd.grad(y, leaves, grad_y)
    want, of_leaves = exact(layer, x, residual, grad_y)
    assert y.stride() == grads[0].stride() == x.stride()
    for got, other in zip((y, *grads), (want, *of_leaves), strict=True):
        error = (got.double() - other).abs().max() / other.abs().max()
        assert error < TOLERANCE[dtype], error


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_way(layout):
    layer, x, *_ = problem(layout, torch.bfloat16)
    assert isinstance(way_of(layer, x), AlongDenseRows)


def test_what_has_gaps_goes_another_way():
    layer, x, *_ = problem("maps", torch.bfloat16)
    assert not isinstance(way_of(layer, x[..., ::2]), AlongDenseRows)
    torch.testing.assert_close(layer(x[..., ::2]), layer(x)[..., ::2])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_input_that_lies_otherwise_in_the_backward_pass(layout):
    layer, x, residual, grad_y = problem(layout, torch.float32, activation="silu")
    x = x * 1
    want = exact(layer, x, residual, grad_y)[1]
    x.requires_grad_()
    with nw.use_backend("cpu"):
        y = layer(x, residual)
    x.data = ARRIVING["reversed"](x.detach())
    grads = torch.autograd.grad(y, (x, *layer.parameters()), grad_y)
    for got, other in zip(grads, (want[0], *want[2:]), strict=True):
        torch.testing.assert_close(got.double(), other, rtol=1e-4, atol=1e-4)


def test_saved_tensors_that_are_as_they_were_are_compared_once(monkeypatch):
    """By their kinds alone, in one call; their forms, one after the other, only where a kind differs."""
    compared, compare = [], autograd.check_unchanged
    monkeypatch.setattr(autograd, "check_unchanged", lambda *a: compared.append(a) or compare(*a))
    layer, x, residual, grad_y = problem("channels_last", torch.float32, activation="relu")
    y = layer(x.requires_grad_(), residual)
    y.backward(grad_y)
    assert compared == []
    y = layer(x, residual)
    layer.weight.data = layer.weight.detach().double()
    with pytest.raises(RuntimeError, match=r"do not assign to its \.data before the backward pass"):
        y.backward(grad_y)
    assert len(compared) == 1
