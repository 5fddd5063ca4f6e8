"""What one process of a group does; started by torchrun from test_synchronization.py."""

import sys
from itertools import pairwise

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.nn.parallel import DistributedDataParallel
from torch.testing import assert_close

import normwise as nw

SAMPLES, CHANNELS = 9, 4


def data(*space, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(SAMPLES, CHANNELS, *space, generator=generator, dtype=torch.float64) * 3 + 100


def shard(x, sizes, rank):
    edges = [0, *torch.tensor(sizes).cumsum(0).tolist()]
    start, stop = list(pairwise(edges))[rank]
    return x[start:stop]


LAYERS = {
    "BatchNorm1d": (lambda **o: nw.BatchNorm1d(CHANNELS, **o), (5,)),
    "BatchNorm2d": (lambda **o: nw.BatchNorm2d(CHANNELS, activation="silu", **o), (2, 3)),
    "SyncBatchNorm": (lambda process_group=None, **o: sync_or_plain(process_group, **o), (2, 3)),
}


def sync_or_plain(process_group, **options):
    if process_group is None:
        return nw.BatchNorm2d(CHANNELS, **options)
    return nw.SyncBatchNorm(CHANNELS, **options)


def whole_and_shards_agree(name, sizes, masked, rank):
    """k processes with any split compute what one process computes on the whole: y, gradients and buffers."""
    make, space = LAYERS[name]
    x, cotangent = data(*space), data(*space, seed=1)
    mask = torch.rand(SAMPLES, *space, generator=torch.Generator().manual_seed(2)) < 0.6 if masked else None
    alone, together = make(dtype=torch.float64), make(dtype=torch.float64, process_group="world")
    with torch.no_grad():
        for layer in (alone, together):
            layer.weight.copy_(torch.linspace(0.5, 2, CHANNELS))
    whole = x.clone().requires_grad_()
    expected = alone(whole, mask=mask)
    expected.backward(cotangent)
    part = shard(x, sizes, rank).clone().requires_grad_()
    y = together(part, mask=None if mask is None else shard(mask, sizes, rank))
    y.backward(shard(cotangent, sizes, rank))
    assert_close(y, shard(expected, sizes, rank), rtol=1e-9, atol=1e-10)
    assert_close(part.grad, shard(whole.grad, sizes, rank), rtol=1e-8, atol=1e-9)
    for parameter in ("weight", "bias"):
        total = getattr(together, parameter).grad.clone()
        dist.all_reduce(total)
        assert_close(total, getattr(alone, parameter).grad, rtol=1e-8, atol=1e-9)
    for buffer in ("running_mean", "running_var", "num_batches_tracked"):
        assert_close(getattr(together, buffer), getattr(alone, buffer), rtol=1e-12, atol=0)


def second_derivatives_agree(sizes, rank):
    x, cotangent = data(5), data(5, seed=1)

    def penalty(layer, x, cotangent):
        (grad,) = torch.autograd.grad(layer(x).tanh(), x, cotangent, create_graph=True)
        return grad.square().sum()

    whole = x.clone().requires_grad_()
    penalty(nw.BatchNorm1d(CHANNELS, dtype=torch.float64), whole, cotangent).backward()
    part = shard(x, sizes, rank).clone().requires_grad_()
    layer = nw.BatchNorm1d(CHANNELS, dtype=torch.float64, process_group="world")
    penalty(layer, part, shard(cotangent, sizes, rank)).backward()
    assert_close(part.grad, shard(whole.grad, sizes, rank), rtol=1e-7, atol=1e-9)


def two_forwards_before_one_backward_under_ddp(rank, world):
    """The standard GAN pattern: D(real) - D(fake), where torch's BatchNorm fails on modified buffers."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv1d(CHANNELS, 6, 1), nw.BatchNorm1d(6, process_group="world"), nn.ReLU()).double()
    reference = nn.Sequential(nn.Conv1d(CHANNELS, 6, 1), nw.BatchNorm1d(6), nn.ReLU()).double()
    reference.load_state_dict(net.state_dict())
    parallel = DistributedDataParallel(net)
    sizes = [SAMPLES // world] * (world - 1) + [SAMPLES - SAMPLES // world * (world - 1)]
    real, fake = data(5), data(5, seed=1) / 2
    (reference(real).sum() - reference(fake).square().sum()).backward()
    (parallel(shard(real, sizes, rank)).sum() - parallel(shard(fake, sizes, rank)).square().sum()).backward()
    for got, want in zip(net.parameters(), reference.parameters(), strict=True):
        assert_close(got.grad * world, want.grad, rtol=1e-7, atol=1e-8)  # DDP averages, the loss here is a sum
    assert_close(net[1].running_var, reference[1].running_var)


class Twice(nn.Module):
    """One layer of torch's under two names."""

    def __init__(self):
        super().__init__()
        self.norm = self.alias = nn.BatchNorm1d(CHANNELS)

    def forward(self, x):
        return self.alias(self.norm(x).relu())


def converted_models_train_under_ddp_on_cpu(rank, sizes):
    """Aliases are synchronized, too: the output is that of one process on the whole."""
    alone, together = Twice().double(), nw.SyncBatchNorm.convert_sync_batchnorm(Twice().double())
    net = nn.Sequential(together, nw.SyncBatchNorm(CHANNELS).double())
    parallel = DistributedDataParallel(net)
    expected = nn.BatchNorm1d(CHANNELS).double()(alone(data(5)))
    y = parallel(shard(data(5), sizes, rank))
    assert_close(y, shard(expected, sizes, rank), rtol=1e-9, atol=1e-10)
    y.sum().backward()
    assert_close(together.alias.running_var, alone.alias.running_var)


def one_value_in_all_is_an_error(rank):
    layer = nw.BatchNorm1d(CHANNELS, process_group="world")
    with pytest.raises(ValueError, match="hold only one together"):
        layer(torch.randn(1 if rank == 0 else 0, CHANNELS))


def a_subgroup_pools_its_own_members(rank, world):
    alone = [dist.new_group([r]) for r in range(world)][rank]
    x = data(5)[rank : rank + 2]
    layer = nw.BatchNorm1d(CHANNELS, process_group=alone, dtype=torch.float64)
    assert_close(layer(x), nn.BatchNorm1d(CHANNELS, dtype=torch.float64)(x))


def statistics_stay_wide_where_parameters_are_sharded_and_narrow(world):
    """FSDP casts inputs and parameters to bf16; what is remembered is not rounded to it."""
    mesh, policy = init_device_mesh("cpu", (world,)), MixedPrecisionPolicy(param_dtype=torch.bfloat16)
    layer = fully_shard(nw.BatchNorm2d(CHANNELS, momentum=1.0), mesh=mesh, mp_policy=policy)
    x = data(2, 3).float()
    y = layer(x.requires_grad_())
    y.float().sum().backward()
    seen = x.detach().bfloat16().double().transpose(0, 1).flatten(1)
    assert y.dtype is torch.bfloat16
    for found, expected in ((layer.running_mean, seen.mean(1)), (layer.running_var, seen.var(1))):
        assert found.dtype is torch.float32
        assert_close(found.double(), expected, rtol=1e-6, atol=1e-6)


def main():
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    rank, world = dist.get_rank(), dist.get_world_size()
    splits = {2: [[4, 5], [0, 9], [8, 1]], 3: [[3, 3, 3], [0, 7, 2], [9, 0, 0]]}[world]
    for sizes in splits:
        for name in LAYERS:
            for masked in (False, True):
                whole_and_shards_agree(name, sizes, masked, rank)
        second_derivatives_agree(sizes, rank)
        converted_models_train_under_ddp_on_cpu(rank, sizes)
    two_forwards_before_one_backward_under_ddp(rank, world)
    one_value_in_all_is_an_error(rank)
    a_subgroup_pools_its_own_members(rank, world)
    statistics_stay_wide_where_parameters_are_sharded_and_narrow(world)
    dist.barrier()
    dist.destroy_process_group()
    sys.stdout.write(f"rank {rank}: all properties hold\n")


if __name__ == "__main__":
    main()
