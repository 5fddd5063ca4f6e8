"""torch's own operators are taken only where they are right."""

import pytest
import torch
from torch.testing import assert_close

import normwise as nw
from normwise.core import formulas
from normwise.core.bound import bound
from normwise.operations.context import context_of
from normwise.operations.request import Request
from normwise.operations.ways import by_torch, torch_operators

LAYOUTS = [torch.contiguous_format, torch.channels_last]


@pytest.mark.parametrize("samples", [1, 2])
@pytest.mark.parametrize("of_gradient", LAYOUTS)
@pytest.mark.parametrize("of_input", LAYOUTS)
@pytest.mark.parametrize("make", [nw.InstanceNorm2d, nw.BatchNorm2d, lambda c: nw.GroupNorm(c, c)])
def test_the_gradient_may_come_in_any_layout(make, of_input, of_gradient, samples):
    """F.instance_norm's gradient is wrong for a batch of one whose incoming gradient is channels_last."""
    x = torch.randn(samples, 8, 9, 11, generator=torch.Generator().manual_seed(0)).to(memory_format=of_input)
    cotangent = torch.randn(samples, 8, 9, 11, generator=torch.Generator().manual_seed(1))
    leaf, wide = x.clone(memory_format=torch.preserve_format).requires_grad_(), x.double().requires_grad_()
    make(8)(leaf).backward(cotangent.to(memory_format=of_gradient))
    axes = (0, 2, 3) if make is nw.BatchNorm2d else (2, 3)
    centered = wide - wide.mean(axes, keepdim=True)
    (centered / (wide.var(axes, correction=0, keepdim=True) + 1e-5).sqrt()).backward(cotangent.double())
    assert_close(leaf.grad.double(), wide.grad, rtol=1e-4, atol=1e-5)


def seeded(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("eps", [1e-5, 1e-3])
def test_the_remembered_variance_has_no_epsilon_in_it(eps):
    """Data of a variance of 1e-4: an epsilon that stayed in would be a tenth of it, or ten times it."""
    x = seeded(8, 4, 5, 3) * 1e-2
    _, pooled = torch_operators.over_batch(x, None, None, eps)
    assert_close(pooled.mean[0], x.double().mean((0, 2, 3)), rtol=1e-6, atol=1e-9)
    # 1/root² - eps: twice the rounding of a root in fp32, relative to the variance with epsilon.
    assert_close(pooled.var[0], x.double().var((0, 2, 3), correction=0), rtol=0, atol=4 * 2**-24 * (1.2e-4 + eps))


@pytest.mark.parametrize("of_gradient", LAYOUTS)
@pytest.mark.parametrize("samples", [1, 2])
def test_planes_alone_by_torchs_operator(samples, of_gradient):
    """F.instance_norm misreads a channels_last gradient of a batch of one: every value of grad_x is wrong."""
    x, cotangent = seeded(samples, 4, 3, 5).requires_grad_(), seeded(samples, 4, 3, 5, seed=1)
    wide = x.detach().double().requires_grad_()
    y = torch_operators.over_groups(x, 4, None, None, 1e-5, to_be_narrowed=False)
    y.backward(cotangent.to(memory_format=of_gradient))
    centered = wide - wide.mean((2, 3), keepdim=True)
    (centered / (centered.square().mean((2, 3), keepdim=True) + 1e-5).sqrt()).backward(cotangent.double())
    assert_close(x.grad.double(), wide.grad, rtol=1e-4, atol=1e-5)


def test_known_statistics_may_change_before_the_backward_pass():
    mean, var, weight = torch.tensor([1.0, -2.0]), torch.tensor([4.0, 0.25]), torch.tensor([0.5, 3.0])
    x, weight = seeded(3, 2, 4).requires_grad_(), weight.requires_grad_()
    y = torch_operators.by_known(x, mean, var, weight, None, 0.0)
    for t in (mean, var):
        t.add_(100)
    cotangent = seeded(3, 2, 4, seed=1)
    of_x, of_weight = torch.autograd.grad(y, [x, weight], cotangent)
    then = (x - torch.tensor([1.0, -2.0])[:, None]) * torch.tensor([0.5, 2.0])[:, None]
    assert_close(of_x, cotangent * (weight * torch.tensor([0.5, 2.0]))[:, None])
    assert_close(of_weight, (cotangent * then).sum((0, 2)))


def test_a_chosen_backend_keeps_torchs_operators_out():
    x, weight = seeded(3, 2, 4), torch.ones(2)
    request = Request(x, bound(formulas.batch_norm, eps=1e-5), (weight, None))
    assert isinstance(by_torch.bind(request, context_of(request)), by_torch.OverPools)
    with nw.use_backend("reference"):
        assert by_torch.bind(request, context_of(request)) == "the backend 'reference' was chosen"
