"""torch's own operators are taken only where they are right."""

import pytest
import torch
from torch.testing import assert_close

import normwise as nw

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
