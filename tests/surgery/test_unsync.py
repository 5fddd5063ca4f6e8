"""From SyncBatchNorm back: the class it was, the same tensors, nothing else changed."""

import copy

import pytest
import torch
from libraries import timm
from surgery_nets import trained
from torch import nn

import normwise as nw


def example_net(norms, conv=(nn.Conv1d, nn.Conv2d, nn.Conv3d)):
    """Every rank, BatchNorm in front of its convolution and behind a linear layer."""
    parts = {}
    for rank, kind in enumerate(conv, 1):
        parts[f"pre{rank}"] = nn.Sequential(
            kind(3, 4, 1), norms[rank - 1](4), nn.ReLU(), norms[rank - 1](4), kind(4, 5, 1)
        )
    parts["head"] = nn.Sequential(nn.Linear(5, 6), norms[0](6))
    return nn.ModuleDict(parts)


TORCH = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
OURS = (nw.BatchNorm1d, nw.BatchNorm2d, nw.BatchNorm3d)


@pytest.mark.parametrize("norms", [TORCH, OURS], ids=["torch", "ours"])
@pytest.mark.parametrize("convert", [nn.SyncBatchNorm, nw.SyncBatchNorm], ids=["by-torch", "by-us"])
def test_there_and_back(norms, convert):
    if norms is OURS and convert is nn.SyncBatchNorm:
        pytest.skip("torch's conversion is not for layers of this package")
    net = trained(example_net(norms))
    x = torch.randn(2, 3, 7)
    expected = net["pre1"](x)
    types = [type(m) for m in net.modules()]
    synced = convert.convert_sync_batchnorm(copy.deepcopy(net))
    parameters, keys = [id(p) for p in synced.parameters()], [*synced.state_dict()]
    back = nw.unsync(synced)
    assert back is synced
    assert [type(m) for m in back.modules()] == types
    assert [id(p) for p in back.parameters()] == parameters
    assert [*back.state_dict()] == keys
    assert torch.equal(back["pre1"](x), expected)
    assert all(m.process_group is None for m in back.modules() if isinstance(m, nw.BatchNorm2d))


def test_options_hooks_modes_and_aliases_stay():
    sync = nn.SyncBatchNorm(4, eps=0.1, momentum=None, affine=False)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), sync)
    net.eval()
    net.extra, sync.qconfig = [sync], "mine"
    seen = []
    handle = sync.register_forward_hook(lambda module, *_: seen.append(type(module).__name__))
    nw.unsync(net)
    norm = net[1]
    assert type(norm) is nn.BatchNorm2d
    assert (norm.eps, norm.momentum, norm.affine, norm.training, norm.qconfig) == (0.1, None, False, False, "mine")
    assert net.extra[0] is norm
    assert norm.running_mean is sync.running_mean
    net(torch.randn(1, 3, 5, 5))
    assert seen == ["BatchNorm2d"]
    handle.remove()
    assert not norm._forward_hooks


def test_without_bias_and_with_our_options():
    ours = nw.SyncBatchNorm(4, bias=False, activation="relu", nonfinite="propagate")
    net = nw.unsync(nn.Sequential(nn.Conv2d(3, 4, 3), ours))
    assert type(net[1]) is nw.BatchNorm2d
    assert net[1].bias is None
    assert (net[1].activation, net[1].policy.nonfinite) == ("relu", "propagate")
    ghost = nn.Sequential(nw.GhostBatchNorm2d(4, process_group="world"))
    assert nw.unsync(ghost)[0].process_group is None


def test_the_rank_is_asked_for_where_nothing_says_it_and_an_example_says_it():
    lonely = nn.SyncBatchNorm(4)
    with pytest.raises(
        ValueError, match=r"nothing says whether the model was .* write unsync\(model, example_inputs\)"
    ):
        nw.unsync(lonely)
    assert type(lonely) is nn.SyncBatchNorm
    for shape, kind in (
        ((2, 4), TORCH[0]),
        ((2, 4, 3), TORCH[0]),
        ((2, 4, 3, 3), TORCH[1]),
        ((2, 4, 1, 1, 1), TORCH[2]),
    ):
        plain = nw.unsync(nn.SyncBatchNorm(4), torch.randn(shape))
        assert type(plain) is kind
        assert plain.training


def test_a_failure_changes_nothing():
    class Own(nn.SyncBatchNorm):
        def forward(self, x):
            return super().forward(x) + 1

    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.SyncBatchNorm(4), Own(4))
    with pytest.raises(ValueError, match="2 is a Own, whose forward of its own would be lost"):
        nw.unsync(net)
    assert type(net[1]) is nn.SyncBatchNorm
    with pytest.raises(TypeError, match="wraps the model"):
        nw.unsync(nn.DataParallel(net))


def test_timms_layers_go_back():
    layers = timm().layers
    net = trained(nn.Sequential(nn.Conv2d(3, 4, 3), layers.BatchNormAct2d(4, act_layer=nn.SiLU)))
    x = torch.randn(2, 3, 6, 6)
    expected = net(x)
    back = nw.unsync(layers.convert_sync_batchnorm(net))
    assert type(back[1]) is layers.BatchNormAct2d
    assert torch.equal(back(x), expected)
