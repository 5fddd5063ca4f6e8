"""What one process of a group does; started by torchrun from test_recalibrate_over_processes.py."""

import sys
import warnings

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.testing import assert_close

import normwise as nw

SPLITS = [([8, 8, 3], [5]), ([6], [7, 2, 9, 1])]


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 5, 1), nw.BatchNorm2d(5))


def data(sizes, seed):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(n, 3, 6, 6, generator=generator) * (1 + seed) + n for n in sizes]


def statistics(model):
    return torch.cat([t.flatten().double() for name, t in sorted(model.state_dict().items()) if "running" in name])


def as_one_process_on_the_whole(rank, upstream, sizes):
    loaders = [data(part, seed) for seed, part in enumerate(sizes)]
    alone = dist.new_group([0]), dist.new_group([1])
    whole, model = net(), net()
    nw.recalibrate(whole, loaders[0] + loaders[1], upstream=upstream, process_group=alone[rank])
    result = nw.recalibrate(model, loaders[rank], upstream=upstream)
    assert_close(statistics(model), statistics(whole), rtol=1e-6, atol=1e-6)
    assert result.samples == sum(map(sum, sizes))
    both = [torch.empty_like(statistics(model)) for _ in range(2)]
    dist.all_gather(both, statistics(model))
    assert torch.equal(*both)


def a_failure_of_one_fails_all_and_changes_none(rank):
    model = net()
    before = statistics(model)
    loader = data([4, 4], 0)
    if rank == 1:
        loader[1][0, 0, 0, 0] = float("nan")
    kind, words = (
        (ValueError, "batch 2 at 1 holds values that are NaN")
        if rank == 1
        else (RuntimeError, "process 1 .* batch 2 at 1")
    )
    with pytest.raises(kind, match=words):
        nw.recalibrate(model, loader)
    assert torch.equal(statistics(model), before)


def blending_starts_from_the_first_process(rank):
    model = net()
    with torch.no_grad():
        model[1].running_mean.fill_(float(rank))
    nw.recalibrate(model, data([4], rank), blend=0.5)
    both = [torch.empty_like(statistics(model)) for _ in range(2)]
    dist.all_gather(both, statistics(model))
    assert torch.equal(*both)


def main():
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", message="recalibrate: ", category=UserWarning)
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    for upstream in ("batch", "running"):
        for sizes in SPLITS:
            as_one_process_on_the_whole(rank, upstream, sizes)
    a_failure_of_one_fails_all_and_changes_none(rank)
    blending_starts_from_the_first_process(rank)
    with pytest.raises(ValueError, match="give steps instead"):
        nw.recalibrate(net(), data([4], 0), tolerance=0.1)
    dist.barrier()
    dist.destroy_process_group()
    sys.stdout.write(f"rank {rank}: all properties hold\n")


if __name__ == "__main__":
    main()
