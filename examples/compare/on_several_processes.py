"""Each run on all processes that torchrun starts: BatchNorm over the part of each, over all parts, and GroupNorm.

    torchrun --nproc-per-node 2 examples/compare/on_several_processes.py            # DistributedDataParallel
    torchrun --nproc-per-node 2 examples/compare/on_several_processes.py --fsdp     # fully_shard

All processes call `compare`; the first chooses each run and writes the rows. The batch size is that of all processes
together. Needs scikit-learn for its digits.
"""

import sys

import torch
import torch.distributed as dist
from sklearn.datasets import load_digits
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

import normwise as nw


def split_digits():
    """Training and held-out images [N, 1, 8, 8] and labels, the same in every process."""
    x, y = (torch.as_tensor(part) for part in load_digits(return_X_y=True))
    x = (x.float().view(-1, 1, 8, 8) - 5) / 6
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    held_out, rest = order[:400], order[400:]
    return x[rest], y[rest], x[held_out], y[held_out]


def train(run):
    x, y, x_test, y_test = split_digits()
    net = nn.Sequential(
        *(nn.Conv2d(1, 16, 3), run.norm(16), nn.ReLU()),
        *(nn.Conv2d(16, 32, 3), run.norm(32), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10)),
    )
    net = fully_shard(net) if "--fsdp" in sys.argv else DistributedDataParallel(net)
    optimizer = torch.optim.AdamW(net.parameters(), lr=run.learning_rate)
    rank, processes = dist.get_rank(), dist.get_world_size()
    order = torch.Generator().manual_seed(run.seed)
    for epoch in range(run.epochs):
        net.train()
        for batch in torch.randperm(len(x), generator=order).split(run.batch_size):
            if len(batch) < run.batch_size:
                break
            mine = batch[rank::processes]
            optimizer.zero_grad()
            loss = F.cross_entropy(net(x[mine]), y[mine])
            loss.backward()
            optimizer.step()
        run.report(epoch + 1, train_loss=loss)
    net.eval()
    with torch.no_grad():
        right = (net(x_test[rank::processes]).argmax(1) == y_test[rank::processes]).sum()
    dist.all_reduce(right)
    return {"accuracy": right / len(x_test)}


if __name__ == "__main__":
    dist.init_process_group("gloo")
    rows = nw.compare(
        train=train,
        norms=["batch", "sync", "group"],
        batch_sizes=[4, 32],
        seeds=2,
        epochs=2,
        learning_rate=3e-3,
        metric="accuracy",
        direction="max",
        out="results/several-processes",
    )
    if dist.get_rank() == 0:
        print(nw.comparison.summarize(rows).headline)
    dist.destroy_process_group()
