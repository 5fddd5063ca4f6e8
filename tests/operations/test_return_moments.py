"""Statistics with a gradient beside ``y``: the same as by torch's own operations in fp64, from one backward pass."""

import pytest
import torch

import normwise as nw
from normwise import Affine, Moments
from normwise.core import formulas
from normwise.core.bound import bound


def by_channels(moments, weight):
    pooled = moments.over_channels()
    return Affine(pooled.mean, weight * (pooled.var + 1e-5).rsqrt(), 0.0)


@nw.formula
def by_batch(moments, weight):
    pooled = moments.over_batch()
    return Affine(pooled.mean, weight * (pooled.var + 1e-5).rsqrt(), 0.0, statistics=pooled)


FORMULAS = {
    "table": (by_channels, 1),
    "stated": (by_batch, 1),
    "batch": (bound(formulas.batch_norm, eps=1e-5), 2),
    "group": (bound(formulas.group_norm, groups=2, eps=1e-5), 2),
    "response": (bound(formulas.evo_norm_s0, groups=2, eps=1e-5), 3),
}


def table_of(x, mask):
    """The table of moments by torch's own operations, with its history."""
    x = x.flatten(2)
    if mask is None:
        return Moments(x.mean(2), x.var(2, correction=0), x.shape[2])
    mask = mask.flatten(1).unsqueeze(1)
    count = mask.sum(2)
    mean = (x * mask).sum(2) / count
    return Moments(mean, ((x - mean.unsqueeze(2)).square() * mask).sum(2) / count, count.double())


def expected(x, formula, parameters, mask):
    """``y``, mean and variance by the definition, in fp64."""
    table = table_of(x, mask)
    found = formula(table, *parameters)
    spread = [torch.as_tensor(t, dtype=x.dtype).expand(x.shape[:2])[..., None, None] for t in found[:-1]]
    stated = table if found.statistics is None else found.statistics
    if isinstance(found, Affine):
        y = (x - spread[0]) * spread[1] + spread[2]
    else:
        y = x * torch.sigmoid(spread[2] * x) * spread[0] + spread[1]
    return y, stated.mean, stated.var


def loss(y, mean, var):
    """A cotangent for each, different everywhere."""
    return sum(
        (t.double() * torch.linspace(-1, 2, t.numel()).double().cos().view(t.shape)).sum() for t in (y, mean, var)
    )


def case(name, dtype, offset=0.0, masked=False):
    formula, count = FORMULAS[name]
    x = (torch.randn(3, 4, 5, 7, dtype=torch.float64) + offset).to(dtype).requires_grad_()
    parameters = [(torch.rand(4, dtype=torch.float64) + 0.5).to(dtype).requires_grad_() for _ in range(count)]
    mask = torch.rand(3, 5, 7) > 0.3 if masked else None
    return formula, x, parameters, mask


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("masked", [False, True], ids=["whole", "masked"])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("name", FORMULAS)
def test_values_and_gradients(name, dtype, masked, layout, backend):
    formula, x, parameters, mask = case(name, dtype, masked=masked)
    exact = [t.detach().double().requires_grad_() for t in (x, *parameters)]
    wanted = expected(exact[0], formula, exact[1:], mask)
    with backend():
        y, table = nw.normalize(
            x.contiguous(memory_format=layout), formula, *parameters, mask=mask, return_moments=True
        )
    tolerance = {"rtol": 1e-9, "atol": 1e-10} if dtype is torch.float64 else {"rtol": 1e-4, "atol": 2e-5}
    for mine, right in zip((y, table.mean, table.var), wanted, strict=True):
        torch.testing.assert_close(mine.double(), right, **tolerance)
    mine = torch.autograd.grad(loss(y, table.mean, table.var), (x, *parameters))
    right = torch.autograd.grad(loss(*wanted), exact)
    for one, other in zip(mine, right, strict=True):
        torch.testing.assert_close(one.double(), other, **tolerance)


def test_offset_data():
    """A mean of a thousand standard deviations: the statistics' gradient is about the exact mean."""
    formula, x, parameters, _ = case("table", torch.float32, offset=1000.0)
    exact = [t.detach().double().requires_grad_() for t in (x, *parameters)]
    y, table = nw.normalize(x, formula, *parameters, return_moments=True)
    wanted = expected(exact[0], formula, exact[1:], None)
    (mine,) = torch.autograd.grad(loss(y * 0, table.mean, table.var), x)
    (right,) = torch.autograd.grad(loss(wanted[0] * 0, *wanted[1:]), exact[:1])
    torch.testing.assert_close(mine.double(), right, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", FORMULAS)
def test_derivatives_of_both_orders(name):
    formula, x, parameters, _ = case(name, torch.float64)

    def call(x, *parameters):
        y, table = nw.normalize(x, formula, *parameters, return_moments=True)
        return y, table.mean, table.var

    small = x.detach()[:2, :, :2, :2].clone().requires_grad_()
    assert torch.autograd.gradcheck(call, (small, *parameters))
    assert torch.autograd.gradgradcheck(call, (small, *parameters))


def test_statistics_alone_and_y_alone():
    formula, x, parameters, _ = case("batch", torch.float64)
    y, table = nw.normalize(x, formula, *parameters, return_moments=True)
    (of_var,) = torch.autograd.grad(table.var.sum(), x, retain_graph=True)
    exact = x.detach().clone().requires_grad_()
    (right,) = torch.autograd.grad(exact.var((0, 2, 3), correction=0).sum(), exact)
    torch.testing.assert_close(of_var, right)
    (of_y,) = torch.autograd.grad(y.square().sum(), x)
    plain = nw.normalize(x, formula, *parameters)
    torch.testing.assert_close(of_y, torch.autograd.grad(plain.square().sum(), x)[0])


def test_given_statistics_have_no_gradient():
    formula, x, parameters, _ = case("table", torch.float64)
    given = Moments.of(x).detached()
    _, table = nw.normalize(x, formula, *parameters, moments=given, return_moments=True)
    assert not table.mean.requires_grad
    torch.testing.assert_close(table.mean, given.mean)


@pytest.mark.parametrize("name", ["batch", "stated"])
def test_under_transforms_and_the_compiler(name):
    formula, x, parameters, _ = case(name, torch.float64)

    def of(x):
        y, table = nw.normalize(x, formula, *parameters, return_moments=True)
        return loss(y, table.mean, table.var)

    right = torch.autograd.grad(of(x), x)[0]
    torch.testing.assert_close(torch.func.grad(of)(x.detach()), right)
    compiled = torch.compile(of, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(torch.autograd.grad(compiled(x), x)[0], right)


def test_without_a_graph_there_is_none():
    formula, x, parameters, _ = case("batch", torch.float32)
    with torch.no_grad():
        y, table = nw.normalize(x, formula, *parameters, activation="relu", return_moments=True)
    assert not y.requires_grad
    assert not table.mean.requires_grad
    torch.testing.assert_close(table.mean.flatten(), x.detach().double().mean((0, 2, 3)))


def test_the_measured_kind_of_call_is_another_one():
    """What is kept for `normalize` must not serve this one, nor the other way round."""
    formula, x, parameters, _ = case("batch", torch.float32)
    for _ in range(2):
        assert isinstance(nw.normalize(x, formula, *parameters), torch.Tensor)
        assert nw.normalize(x, formula, *parameters, return_moments=True)[1].mean.requires_grad


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("masked", [False, True], ids=["whole", "masked"])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("offset", [0.0, 1000.0])
def test_measure_has_the_gradient_of_the_definition(dtype, masked, layout, offset, backend):
    _, x, _, mask = case("table", dtype, offset if dtype is not torch.bfloat16 else 0.0, masked)
    exact = x.detach().double().requires_grad_()
    wanted = table_of(exact, mask)
    with backend():
        table = nw.functional.measure(x.contiguous(memory_format=layout), mask)
    tolerance = {torch.float64: 1e-10, torch.float32: 2e-5, torch.bfloat16: 2e-2}[dtype]
    torch.testing.assert_close(table.mean.double(), wanted.mean, rtol=tolerance, atol=tolerance)
    (mine,) = torch.autograd.grad(loss(table.mean, table.var, table.var), x)
    (right,) = torch.autograd.grad(loss(wanted.mean, wanted.var, wanted.var), exact)
    torch.testing.assert_close(mine.double(), right, rtol=tolerance, atol=tolerance)


def test_measure_has_derivatives_of_both_orders():
    x = torch.randn(2, 3, 2, 3, dtype=torch.float64, requires_grad=True)
    mask = torch.rand(2, 2, 3) > 0.3
    for chosen in (None, mask):
        assert torch.autograd.gradcheck(lambda x, m=chosen: nw.functional.measure(x, m)[:2], x)
        assert torch.autograd.gradgradcheck(lambda x, m=chosen: nw.functional.measure(x, m)[:2], x)
    empty = torch.empty(2, 3, 0, requires_grad=True)
    nw.functional.measure(empty).mean.sum().backward()
    assert empty.grad.shape == (2, 3, 0)


def test_measure_notices_a_change_before_its_backward():
    x = torch.randn(2, 3, 4, requires_grad=True)
    seen = x * 1
    table = nw.functional.measure(seen)
    seen.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        table.var.sum().backward()
