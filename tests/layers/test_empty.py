"""Input without a value: an empty output, gradients of zero, and nothing remembered."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

import normwise as nw
from normwise import functional as nf
from normwise.layers import NORMALIZERS

C = 6
SHAPES = {"no sample": (0, C, 4, 3), "no position": (2, C, 0, 3), "neither": (0, C, 0, 3), "no sample [N, C]": (0, C)}
NAMES = [name for name in NORMALIZERS if name != "none"]
DTYPES = [torch.float32, torch.bfloat16]


def made(name, rank):
    torch.manual_seed(0)
    return NORMALIZERS[name].make(C, rank, None)


def condition(name, x):
    kind = NORMALIZERS[name].condition
    if kind == "labels":
        return (torch.zeros(x.shape[0], dtype=torch.long),)
    if kind == "style":
        return (torch.ones(x.shape[0], C, 4, 4),)
    if kind == "vector":
        return (torch.ones(x.shape[0], 2),)
    if kind == "gate":
        return (torch.ones_like(x),)
    return () if kind is None else (torch.ones(x.shape[0], 2, *x.shape[2:]),)


def empty(name, shape, dtype, graph):
    x = torch.zeros(SHAPES[shape], dtype=dtype)
    rows = not NORMALIZERS[name].of_maps
    return (x.movedim(1, -1).contiguous() if rows else x).requires_grad_(graph)


@pytest.mark.parametrize("graph", [True, False], ids=["graph", "no graph"])
@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [shape for shape in SHAPES if shape != "no sample [N, C]"])
@pytest.mark.parametrize("name", NAMES)
def test_every_layer(name, shape, dtype, training, graph):
    if name == "sync" and training:
        pytest.skip("needs processes: see tests/distributed")
    layer, x = made(name, 2).train(training), empty(name, shape, dtype, graph)
    before = {key: t.clone() for key, t in layer.named_buffers()}
    if name == "spade" and x.shape[2:].numel() == 0:
        with pytest.raises(ValueError, match="SPADE: the segmentation is resized to the maps of x, which must not be"):
            layer(x, *condition(name, x))
        return
    with torch.set_grad_enabled(graph):
        y = layer(x, *condition(name, x))
    assert y.shape == x.shape
    assert y.dtype == dtype
    if graph:
        y.sum().backward()
        grads = {key: t.grad for key, t in [("x", x), *layer.named_parameters()]}
        assert_close(grads, {key: torch.zeros_like(t) for key, t in grads.items()})
    assert_close(dict(layer.named_buffers()), before, rtol=0, atol=0)


@pytest.mark.parametrize("make", [nw.BatchNorm1d, nw.GhostBatchNorm1d, nw.BatchRenorm1d, nw.BatchInstanceNorm1d])
def test_features_without_a_sample(make):
    layer, x = make(C), torch.zeros(0, C, requires_grad=True)
    layer(x).sum().backward()
    assert layer.num_batches_tracked.item() == 0
    assert_close(layer.weight.grad, torch.zeros(C))


@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("shape", [shape for shape in SHAPES if shape != "no sample [N, C]"])
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


@pytest.mark.parametrize("graph", [True, False], ids=["graph", "no graph"])
@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("name", [n for n in NAMES if NORMALIZERS[n].for_channels and n not in ("sync", "tanh", "erf")])
def test_a_mask_with_nothing_in_it(name, training, graph):
    layer, x = made(name, 2).train(training), torch.randn(3, C, 4, 3, requires_grad=graph)
    before = {key: t.clone() for key, t in layer.named_buffers()}
    with torch.set_grad_enabled(graph):
        y = layer(x, mask=torch.zeros(3, 4, 3, dtype=torch.bool))
    assert y.isfinite().all()
    if graph:
        y.backward(torch.randn_like(y))
        assert all(t.grad.isfinite().all() for t in (x, *layer.parameters()))
    assert_close(dict(layer.named_buffers()), before, rtol=0, atol=0)
