"""Tensors on two devices are an error, whatever was called before."""

import pytest
import torch
from torch import nn

import normwise as nw

LAYERS = {
    "ghost": lambda: nw.GhostBatchNorm2d(4, ghost_size=2),
    "switchable": lambda: nw.SwitchableNorm2d(4),
    "batch-instance": lambda: nw.BatchInstanceNorm2d(4),
    "filter response": lambda: nw.FilterResponseNorm2d(4),
    "global response": lambda: nw.GlobalResponseNorm(4),
    "evo s0": lambda: nw.EvoNormS0(4),
    "batch": lambda: nw.BatchNorm2d(4),
    "group": lambda: nw.GroupNorm(2, 4),
    "pixels": lambda: nw.LayerNorm2d(4),
    "rows": lambda: nw.LayerNorm(3),
}


@pytest.mark.parametrize("size", [3, 60], ids=["small", "large"])
@pytest.mark.parametrize("graph", [False, True])
@pytest.mark.parametrize("name", LAYERS)
def test_a_parameter_on_another_device_is_an_error_after_a_clean_call_too(name, size, graph):
    x = torch.randn(4, 4, size, 3, requires_grad=graph)
    fresh, used = LAYERS[name](), LAYERS[name]()
    used(x)
    for layer in (fresh, used):
        layer.weight = nn.Parameter(layer.weight.to("meta"))
        with pytest.raises((RuntimeError, TypeError, ValueError)):
            layer(x)


def test_the_same_kind_of_formula_on_the_meta_device():
    layer = nw.GhostBatchNorm2d(4, ghost_size=2)
    layer(torch.randn(4, 4, 3, 3))
    y = layer.to("meta")(torch.empty(4, 4, 3, 3, device="meta"))
    assert y.is_meta
    assert y.shape == (4, 4, 3, 3)


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
def test_a_formula_that_gives_complex_numbers_is_an_error(dtype):
    x = torch.randn(2, 3, 5)
    for affine in (
        lambda m: nw.Affine(0.0, m.var.to(dtype) * 1j, 0.0),
        lambda m: nw.Affine(0.0, m.var, m.mean.to(dtype)),
        lambda m: nw.Affine(m.mean * 1j, m.var, 0.0),
        lambda m: nw.Affine(0.0, m.var, 1j),
    ):
        with pytest.raises(TypeError, match="real"):
            nw.normalize(x, affine)
