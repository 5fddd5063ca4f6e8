"""Statistics over real processes (gloo), started as users start them."""

import copy
import textwrap
import time
from pathlib import Path

import pytest
import torch
from several_processes import assert_all_hold, ended_together
from torch import nn
from torch.testing import assert_close

import normwise as nw


@pytest.mark.parametrize("world", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_any_split_over_processes_is_one_process_on_the_whole(world):
    assert_all_hold(Path(__file__).with_name("worker.py"), world=world)


def test_a_dead_process_is_an_error_for_the_others_not_a_hang():
    script = textwrap.dedent(
        """
        import os, torch, torch.distributed as dist, normwise as nw
        from datetime import timedelta
        dist.init_process_group("gloo", timeout=timedelta(seconds=20))
        layer = nw.BatchNorm1d(4, process_group="world")
        layer(torch.randn(3, 4))
        if dist.get_rank() == 1:
            os._exit(7)
        try:
            layer(torch.randn(3, 4))
        except RuntimeError:
            os._exit(42)
        """
    )
    started = time.monotonic()
    codes = [done.returncode for done in ended_together(script)]
    assert codes == [42, 7]
    assert time.monotonic() - started < 120


def test_without_processes_the_error_says_what_to_call():
    layer = nw.BatchNorm2d(3, process_group="world")
    with pytest.raises(RuntimeError, match=r"not initialized; call torch\.distributed\.init_process_group"):
        layer(torch.randn(2, 3, 4, 4))
    assert layer.eval()(torch.randn(2, 3, 4, 4)).shape == (2, 3, 4, 4)
    with pytest.raises(ValueError, match="process_group must be 'world', a ProcessGroup or None, received 'all'"):
        nw.BatchNorm2d(3, process_group="all")


def test_without_processes_sync_batch_norm_is_batch_norm():
    ours, theirs = nw.SyncBatchNorm(3), nn.SyncBatchNorm(3)
    for _ in range(2):
        x, cotangent = torch.randn(2, 3, 4, 4) * 2 + 1, torch.randn(2, 3, 4, 4)
        results = []
        for layer in (ours, theirs):
            leaf = x.clone().requires_grad_()
            y = layer(leaf)
            y.backward(cotangent)
            results.append([y, leaf.grad, *(p.grad for p in layer.parameters()), *layer.buffers()])
        assert_close(results[0], results[1])
    with pytest.raises(ValueError, match="Expected more than 1 value per channel"):
        ours(torch.randn(1, 3))


class Aliased(nn.Module):
    """One layer under two names and in a list, another with a hook, a parametrization and an attribute."""

    def __init__(self):
        super().__init__()
        self.norm, self.other = nn.BatchNorm1d(4), nn.BatchNorm1d(4)
        self.alias, self.kept = self.norm, [self.norm]
        self.other.qconfig = "int8"
        nn.utils.parametrize.register_parametrization(self.other, "weight", nn.Softplus())

    def forward(self, x):
        return self.other(self.alias(self.norm(x)))


def test_conversion_keeps_aliases_hooks_and_attributes():
    model, heard = Aliased(), []
    handle = model.other.register_forward_hook(lambda module, *_: heard.append(module))
    twin = copy.deepcopy(model)
    weight, original = model.norm.weight, model.other.parametrizations.weight.original
    assert nw.SyncBatchNorm.convert_sync_batchnorm(model) is model
    assert isinstance(model.norm, nw.SyncBatchNorm)
    assert model.norm is model.alias is model.kept[0]
    assert model.norm.weight is weight
    assert model.other.parametrizations.weight.original is original
    assert model.other.qconfig == "int8"
    x = torch.randn(6, 4)
    assert_close(model(x), twin(x))
    assert heard[0] is model.other
    handle.remove()
    model(x)
    assert len(heard) == 2  # the twin's, and the first of the model's
    assert list(model.state_dict()) == list(twin.state_dict())


def test_a_conversion_that_fails_changes_nothing():
    class Own(nn.BatchNorm1d):
        pass

    model = nn.Sequential(nn.BatchNorm1d(3), nw.BatchNorm1d(3), Own(3))
    layers = list(model)
    with pytest.raises(ValueError, match="Own has a forward of its own"):
        nw.SyncBatchNorm.convert_sync_batchnorm(model)
    assert list(model) == layers
    assert model[1].process_group is None


def test_conversion_keeps_classes_options_and_parameters():
    class Own(nn.BatchNorm2d):
        pass

    ours, theirs = nw.BatchNorm2d(3, activation="relu"), nn.BatchNorm1d(4, momentum=None, affine=False)
    model = nn.Sequential(ours, nn.Sequential(theirs), nn.GroupNorm(1, 4)).eval()
    state = {k: v.clone() for k, v in model.state_dict().items()}
    converted = nw.SyncBatchNorm.convert_sync_batchnorm(model)
    assert converted[0] is ours
    assert ours.process_group == "world"
    assert ours.activation == "relu"
    sync = converted[1][0]
    assert isinstance(sync, nw.SyncBatchNorm)
    assert (sync.momentum, sync.weight, sync.training) == (None, None, False)
    assert converted.state_dict().keys() == state.keys()
    assert all(torch.equal(v, state[k]) for k, v in converted.state_dict().items())
    with pytest.raises(ValueError, match="Own has a forward of its own, which a conversion would drop"):
        nw.SyncBatchNorm.convert_sync_batchnorm(Own(3))
