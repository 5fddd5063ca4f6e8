"""Checkpoints of other times and other settings load, and say what was done."""

from contextlib import nullcontext

import pytest
import torch
from torch import nn
from torch.testing import assert_close

import normwise as nw


def old(state):
    """A state_dict from before versions were recorded, as torch.load of an old file gives it."""
    return {key: value.clone() for key, value in state.items()}


def test_instance_norm_leaves_out_statistics_that_it_does_not_keep():
    # Style-transfer networks saved before torch 0.4: torch.nn refuses them.
    saved = old(nn.InstanceNorm2d(3, affine=True, track_running_stats=True).state_dict())
    saved["weight"] += 1
    with pytest.raises(RuntimeError, match="Unexpected running stats"):
        nn.InstanceNorm2d(3, affine=True).load_state_dict(saved)
    model = nn.Sequential(nw.InstanceNorm2d(3, affine=True))
    with pytest.warns(
        UserWarning, match=r"left out 0\.running_mean, 0\.running_var, 0\.num_batches_tracked.*set it to use"
    ):
        model.load_state_dict({f"0.{key}": value for key, value in saved.items()})
    assert_close(model[0].weight, saved["weight"])
    assert "running_mean" in saved


@pytest.mark.parametrize("layer", [nw.BatchNorm2d(3), nw.BatchRenorm2d(3), nw.GhostBatchNorm2d(3)])
def test_batch_norm_without_its_counter(layer):
    saved = old(nn.BatchNorm2d(3).state_dict())
    saved["running_mean"] += 2
    del saved["num_batches_tracked"]
    with pytest.warns(UserWarning, match="kept its own counter, since num_batches_tracked is missing"):
        layer.load_state_dict(saved)
    assert_close(layer.running_mean, saved["running_mean"])
    assert layer.num_batches_tracked.item() == 0


@pytest.mark.parametrize(
    "layer",
    [
        nw.GroupNorm(2, 6),
        nw.InstanceNorm2d(6),
        nw.LayerNorm([6, 5, 5]),
        nw.RMSNorm(5),
        nw.LayerNorm2d(6),
        nw.EvoNormS0(6, 2),
    ],
    ids=lambda layer: type(layer).__name__,
)
@pytest.mark.parametrize("backend", ["automatic", "reference"])
def test_a_sample_gets_the_same_bits_whatever_the_batch(layer, backend):
    x = torch.randn(7, 6, 5, 5, generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), nullcontext() if backend == "automatic" else nw.use_backend(backend):
        whole = layer(x)
        for size in (1, 2, 3):
            assert torch.equal(layer(x[:size]), whole[:size])
