"""What one process does under fully_shard; started by torchrun from test_sharded.py."""

import copy
import sys

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor, init_device_mesh
from torch.testing import assert_close

import normwise as nw
from normwise.optim import AdaptiveGradientClipping, adaptive_clip_grad_


def model():
    torch.manual_seed(3)
    # 5 and 7 units do not divide evenly; one process holds nothing of the single unit.
    return nn.Sequential(
        nw.ScaledWSConv2d(2, 5, 3),
        nn.ReLU(),
        nn.Conv2d(5, 1, 1),
        nn.Flatten(),
        nn.Linear(16, 7),
        nn.Linear(7, 3),
    )


def batch(step):
    generator = torch.Generator().manual_seed(step)
    return torch.randn(4, 2, 6, 6, generator=generator), torch.tensor([0, 1, 2, 0])


def shards_are_clipped_like_one_process(mesh):
    alone, sharded = model(), fully_shard(copy.deepcopy(model()), mesh=mesh)
    optimizers = [
        AdaptiveGradientClipping(torch.optim.SGD(net.parameters(), lr=0.3, momentum=0.9), net, 0.3)
        for net in (alone, sharded)
    ]
    for step in range(3):
        x, y = batch(step)
        for net, optimizer in zip((alone, sharded), optimizers, strict=True):
            optimizer.zero_grad()
            (10 * nn.functional.cross_entropy(net(x), y)).backward()
            optimizer.step()
    for (name, ours), theirs in zip(sharded.named_parameters(), alone.parameters(), strict=True):
        assert isinstance(ours, DTensor)
        assert_close(ours.full_tensor(), theirs, rtol=1e-5, atol=1e-6, msg=name)
    expected, report = (optimizer.report for optimizer in optimizers)
    assert report.excluded == expected.excluded == ("5.weight",)
    total = report.counts["4.weight"].sum()
    dist.all_reduce(total)
    assert total == expected.counts["4.weight"].sum() > 0
    assert all(0 <= rate <= 1 for rate in report.rates.values())


def nets_of_single_numbers_are_sharded(mesh):
    """A parameter may have no fewer than one dimension."""
    nets = nw.nets
    for net in (nets.skipinit_resnet(8, 3, 1), nets.fixup_resnet(8, 3, 1), nets.nf_resnet26(3, 1, stem="small")):
        alone = net.eval()
        sharded = fully_shard(copy.deepcopy(alone), mesh=mesh)
        x = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
        for one in (alone, sharded):
            one(x).square().sum().backward()
        for whole, part in zip(alone.parameters(), sharded.parameters(), strict=True):
            if whole.grad is not None:
                assert_close(part.grad.full_tensor(), whole.grad)


def cuts_through_units_are_refused(mesh):
    weight = nn.Parameter(distribute_tensor(torch.randn(4, 6), mesh, [Shard(1)]))
    weight.grad = distribute_tensor(torch.randn(4, 6), mesh, [Shard(1)])
    with pytest.raises(ValueError, match=r"'0' is placed as .*Shard\(dim=1\).*shard it on dimension 0"):
        adaptive_clip_grad_([weight])
    replicated = nn.Parameter(distribute_tensor(torch.randn(4, 6), mesh, [Replicate()]))
    replicated.grad = distribute_tensor(torch.full((4, 6), 100.0), mesh, [Replicate()])
    assert adaptive_clip_grad_([replicated]).rates == {"0": 1.0}
    transposed = fully_shard(nn.ConvTranspose2d(2, 2, 3), mesh=mesh)
    transposed(torch.randn(1, 2, 4, 4)).sum().backward()
    with pytest.raises(ValueError, match="the weight of a transposed convolution not at all"):
        adaptive_clip_grad_(transposed, classifier=None)


if __name__ == "__main__":
    dist.init_process_group("gloo")
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    shards_are_clipped_like_one_process(mesh)
    cuts_through_units_are_refused(mesh)
    nets_of_single_numbers_are_sharded(mesh)
    sys.stdout.write(f"rank {dist.get_rank()}: all properties hold\n")
    sys.stdout.flush()
    dist.destroy_process_group()
