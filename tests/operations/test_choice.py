"""Kernels are the way only where they can read every tensor."""

import pytest
import torch

import normwise as nw


@pytest.mark.parametrize("shape", [(3, 4, 5, 5), (64, 4, 32, 32)], ids=["small", "large"])
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("name", ["batch", "group", "instance", "pixel-layer", "pixel-rms"])
def test_a_parameter_on_another_device_is_an_error(name, training, shape):
    layer = nw.make_norm(name, 4).train(training)
    layer.weight = torch.nn.Parameter(torch.ones(4, device="meta"))
    with pytest.raises((RuntimeError, ValueError), match="meta"):
        layer(torch.randn(shape))
