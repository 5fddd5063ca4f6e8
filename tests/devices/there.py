"""The same tensors and modules on the device without fp64, and the comparison with what the CPU gives."""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.testing import assert_close
from torch.utils._pytree import tree_map

from .device import SINGLE, OnDevice, register

# A result is a few roundings off; a sum of a few dozen terms, which may cancel, as many of their size.
TOLERANCE = 2e-5


def there(value):
    """A module copied to the device; tensors likewise, in nested tuples and dicts, the fp64 ones as fp32."""
    register()
    if isinstance(value, nn.Module):
        return copy.deepcopy(value).to(SINGLE)
    return tree_map(_there, value)


def _there(value):
    if not isinstance(value, torch.Tensor):
        return value
    return (value.float() if value.dtype is torch.float64 else value.detach()).to(SINGLE)


def assert_same(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor], tolerance: float = TOLERANCE) -> None:
    """What the device found, and it was there: each tensor within ``tolerance`` of its largest value."""
    assert found.keys() == wanted.keys()
    for name, want in wanted.items():
        assert isinstance(found[name], OnDevice), name
        got, want = found[name].cpu().to(want.dtype), want.detach()
        scale = max(1.0, want.abs().max().item()) if want.is_floating_point() else 1
        assert_close(got / scale, want / scale, atol=tolerance, rtol=tolerance, msg=lambda m, name=name: f"{name}: {m}")


def step(model: nn.Module, x: torch.Tensor, cotangent: torch.Tensor) -> dict[str, torch.Tensor]:
    """Output, gradients and buffers of one forward and backward pass."""
    x = x.detach().clone().requires_grad_()
    y = model(x)
    y.backward(cotangent)
    result = {"y": y.detach(), "x.grad": x.grad}
    result |= {f"{name}.grad": p.grad for name, p in model.named_parameters() if p.grad is not None}
    return result | {name: b.clone() for name, b in model.named_buffers()}
