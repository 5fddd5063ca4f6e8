"""h = x + residual, y = norm(h), both results: against torch's own operations in fp64, forward and backward."""

import pytest
import torch
import torch.nn.functional as F
from marks import needs_kernels

import normwise as nw
from normwise import functional as nf

SHAPES = {"one": (3, 1), "odd": (5, 2, 37), "vector": (4, 16), "chunks": (3, 5000), "wide": (2, 16400)}
TOLERANCE = {torch.float64: 1e-10, torch.float32: 3e-5, torch.bfloat16: 3e-2, torch.float16: 4e-3}


def tensors(shape, dtype, offset=0.0):
    x, residual = (torch.randn(shape, dtype=torch.float64) for _ in range(2))
    weight, bias = (torch.rand(shape[-1], dtype=torch.float64) + 0.5 for _ in range(2))
    return [t.to(dtype).requires_grad_() for t in (x + offset, residual, weight, bias)]


def exactly(center, rounded, x, residual, weight, bias):
    """By torch's operators, in fp64, of the sum as it is ``rounded`` to the type of the inputs."""
    total = x + residual
    total = total + (rounded.double() - total).detach()
    shape = (x.shape[-1],)
    if center:
        return F.layer_norm(total, shape, weight, bias, 1e-5), total
    return F.rms_norm(total, shape, weight, 1e-5), total


def ours(center, x, residual, weight, bias):
    shape = x.shape[-1]
    if center:
        return nf.add_layer_norm(x, residual, shape, weight, bias)
    return nf.add_rms_norm(x, residual, shape, weight, eps=1e-5)


def cotangents(*results):
    return [torch.linspace(-1, 2, t.numel()).double().cos().view(t.shape) for t in results]


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("center", [True, False], ids=["mean", "rms"])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=list(SHAPES))
def test_values_and_gradients(shape, center, dtype, backend):
    given = tensors(shape, dtype)
    exact = [t.detach().double().requires_grad_() for t in given]
    with backend():
        y, total = ours(center, *given)
    assert y.dtype == total.dtype == dtype
    rounded = (given[0] + given[1]).detach()
    assert torch.equal(total.detach(), rounded)
    right_y, right_total = exactly(center, rounded, *exact)
    tolerance = TOLERANCE[dtype]
    torch.testing.assert_close(y.double(), right_y, rtol=tolerance, atol=tolerance)
    used = slice(None) if center else slice(3)
    grads = [g.to(dtype) for g in cotangents(y, total)]
    mine = torch.autograd.grad((y, total), given[used], grads)
    right = torch.autograd.grad((right_y, right_total), exact[used], [g.double() for g in grads])
    assert torch.equal(mine[0], mine[1])
    for one, other in zip(mine, right, strict=True):
        size = other.abs().max().item()
        torch.testing.assert_close(one.double(), other, rtol=tolerance, atol=4 * tolerance * max(size, 1))


@needs_kernels
def test_a_large_mean():
    given = tensors((6, 300), torch.float32, offset=1000.0)
    y, total = nf.add_layer_norm(*given[:2], 300)
    torch.testing.assert_close(y.double(), F.layer_norm(total.double(), (300,)), rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("center", [True, False])
def test_derivatives_of_both_orders(center):
    given = tensors((2, 3, 5), torch.float64)
    given = given if center else given[:3]
    call = lambda *t: ours(center, *t, *(() if center else (None,)))  # noqa: E731
    assert torch.autograd.gradcheck(call, given)
    assert torch.autograd.gradgradcheck(call, given)


@pytest.mark.parametrize("of", [0, 1], ids=["y", "sum"])
def test_the_gradient_of_one_result_alone(of):
    given = tensors((2, 5), torch.float64)
    (mine,) = torch.autograd.grad(nf.add_layer_norm(*given[:2], 5)[of].square().sum(), given[:1])
    total = given[0] + given[1]
    (right,) = torch.autograd.grad((F.layer_norm(total, (5,)), total)[of].square().sum(), given[:1])
    torch.testing.assert_close(mine, right)


def test_only_one_term_or_the_weight_wants_a_gradient():
    x, residual, weight, bias = tensors((2, 5), torch.float64)
    for wanted in (x, residual, weight):
        leaves = [t if t is wanted else t.detach() for t in (x, residual, weight, bias)]
        (mine,) = torch.autograd.grad(nf.add_layer_norm(leaves[0], leaves[1], 5, *leaves[2:])[0].square().sum(), wanted)
        total = leaves[0] + leaves[1]
        right_y = F.layer_norm(total, (5,), *leaves[2:])
        torch.testing.assert_close(mine, torch.autograd.grad(right_y.square().sum(), wanted)[0])


def test_terms_that_are_not_contiguous_empty_or_of_two_types():
    x, residual = torch.randn(7, 3, dtype=torch.float64).T, torch.randn(3, 7, dtype=torch.float64)
    torch.testing.assert_close(nf.add_rms_norm(x, residual, 7, eps=1e-5)[0], F.rms_norm(x + residual, (7,), eps=1e-5))
    y, total = nf.add_rms_norm(torch.empty(0, 7), torch.empty(0, 7), 7)
    assert y.shape == total.shape == (0, 7)
    y, total = nf.add_layer_norm(residual.bfloat16(), residual.float(), 7)
    assert y.dtype == total.dtype == torch.float32
    torch.testing.assert_close(y, F.layer_norm(residual.bfloat16() + residual.float(), (7,)))
    expanded = torch.randn(7).expand(3, 7)
    torch.testing.assert_close(nf.add_layer_norm(expanded, expanded, 7)[1], expanded * 2)


def test_transforms_and_the_compiler():
    x, residual, weight, bias = tensors((4, 5), torch.float64)

    def loss(x, residual):
        y, total = nf.add_layer_norm(x, residual, 5, weight.detach(), bias.detach())
        return (y.sin() * total).sum()

    right = torch.autograd.grad(loss(x, residual), x)[0]
    torch.testing.assert_close(torch.func.grad(loss)(x.detach(), residual.detach()), right)
    per_row = torch.func.vmap(torch.func.grad(loss))(x.detach(), residual.detach())
    torch.testing.assert_close(per_row, right)
    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(torch.autograd.grad(compiled(x, residual), x)[0], right)


@pytest.mark.parametrize("make", [nw.LayerNorm, nw.RMSNorm])
def test_layers_add_first(make):
    torch.manual_seed(0)
    norm, plain = make(6, add_first=True), make(6)
    assert norm.state_dict().keys() == plain.state_dict().keys()
    assert "add_first=True" in repr(norm)
    x, residual = torch.randn(2, 3, 6), torch.randn(2, 3, 6)
    y, total = norm(x, residual)
    assert torch.equal(total, x + residual)
    torch.testing.assert_close(y, plain(x + residual))
    y, same = norm(x)
    assert same is x
    torch.testing.assert_close(y, plain(x))
    with pytest.raises(ValueError, match="add_first normalizes x \\+ residual and takes no activation"):
        make(6, activation="relu", add_first=True)


def test_what_does_not_fit_is_refused():
    x = torch.randn(2, 6)
    with pytest.raises(ValueError, match="residual"):
        nf.add_layer_norm(x, torch.randn(1, 6), 6)
    with pytest.raises(TypeError, match="add_rms_norm: residual"):
        nf.add_rms_norm(x, torch.ones(2, 6, dtype=torch.int64), 6)
    with pytest.raises(ValueError, match="weight"):
        nf.add_rms_norm(x, x, 6, torch.ones(5))


def test_a_sum_that_changed_before_the_backward_pass_is_noticed():
    x, residual, weight, _ = tensors((2, 5), torch.float32)
    y, total = nf.add_rms_norm(x, residual, 5, weight)
    with torch.no_grad():
        total.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()
