"""One of two processes that train a critic with spectral normalization under DDP; started by test_distributed.py."""

import datetime
import sys
import warnings

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from normwise.weights import spectral_norm

STEPS, WORLD = 4, 2


def critic(operator):
    torch.manual_seed(0)
    return nn.Sequential(
        spectral_norm(nn.Conv2d(2, 4, 3, padding=1), operator=operator),
        nn.Tanh(),
        nn.Flatten(),
        spectral_norm(nn.Linear(64, 1)),
    )


def batches():
    generator = torch.Generator().manual_seed(7)
    return [[torch.randn(4, 2, 4, 4, generator=generator) for _ in range(2)] for _ in range(STEPS)]


def train(model, part=slice(None)):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2)
    for real, fake in batches():
        optimizer.zero_grad()
        (model(real[part]).square().mean() - model(fake[part]).mean()).backward()
        optimizer.step()


def check(rank, operator, broadcast_buffers):
    """Parameters and vectors are equal on both ranks, and those of one process with the whole batch."""
    model = critic(operator)
    if rank and broadcast_buffers:  # DDP starts every rank from rank 0's values
        with torch.no_grad():
            for tensor in model.state_dict().values():
                tensor.normal_()
    parallel = DistributedDataParallel(model, broadcast_buffers=broadcast_buffers)
    train(parallel, slice(2 * rank, 2 * rank + 2))
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        gathered = [torch.empty_like(tensor) for _ in range(WORLD)]
        dist.all_gather(gathered, tensor.detach())
        if not torch.equal(*gathered):
            raise AssertionError(f"{name} differs between the ranks")
    alone = critic(operator)
    train(alone)
    for name, tensor in alone.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], tensor, rtol=1e-4, atol=1e-5)


if __name__ == "__main__":
    warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)
    torch.set_num_threads(1)
    dist.init_process_group("gloo", timeout=datetime.timedelta(seconds=30))
    rank = dist.get_rank()
    for operator, broadcast_buffers in ((False, True), (False, False), (True, True)):
        check(rank, operator, broadcast_buffers)
    dist.destroy_process_group()
    sys.stdout.write(f"rank {rank}: all properties hold\n")
