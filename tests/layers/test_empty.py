"""Input without a value beside what `tests/conformance` asks of every row: features, functions, no channel."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

import normwise as nw
from normwise import functional as nf

C = 6
SHAPES = {"no sample": (0, C, 4, 3), "no position": (2, C, 0, 3), "neither": (0, C, 0, 3)}


@pytest.mark.parametrize("make", [nw.BatchNorm1d, nw.GhostBatchNorm1d, nw.BatchRenorm1d, nw.BatchInstanceNorm1d])
def test_features_without_a_sample(make):
    layer, x = make(C), torch.zeros(0, C, requires_grad=True)
    layer(x).sum().backward()
    assert layer.num_batches_tracked.item() == 0
    assert_close(layer.weight.grad, torch.zeros(C))


@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", ["batch", "ghost", "instance", "group"])
def test_statistics_as_values_count_nothing(name, shape, momentum):
    call = {
        "batch": nf.batch_norm,
        "ghost": lambda x: nf.ghost_batch_norm(x, ghost_size=2),
        "instance": nf.instance_norm,
        "group": lambda x: nf.group_norm(x, 3),
    }[name]
    running = nf.initial_statistics(C)
    assert_close(list(nf.update_statistics(running, call(torch.zeros(SHAPES[shape]))[1], momentum)), list(running))


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [(nw.InstanceNorm1d(0), nn.InstanceNorm1d(0)), (nw.GroupNorm(1, 0), nn.GroupNorm(1, 0)), (nw.BatchNorm1d(0), None)],
    ids=["instance", "group", "batch"],
)
def test_no_channel(ours, theirs):
    """torch's batch normalization fails inside; there is nothing that it could get wrong."""
    x = torch.zeros(2, 0, 4)
    assert_close(ours(x), x if theirs is None else theirs(x))
    assert_close(ours.eval()(x), x)
