"""A training step of ResNet-50 with GroupNorm(32), with memory as the allocator comes or reused: one process each.

python benchmarks/memory_step.py reused ours --batch 16
"""

from __future__ import annotations

import argparse
import resource
import statistics
import sys
import time
from pathlib import Path

import torch
from torch import nn

import normwise as nw
from normwise.bench.regimes import AS_IT_COMES, REUSED

STATM = Path("/proc/self/statm")
REGIMES = {"comes": AS_IT_COMES, "reused": REUSED}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("memory", choices=REGIMES)
    parser.add_argument("layers", choices=("native", "ours"))
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--steps", type=int, default=2)
    given = parser.parse_args()
    if REGIMES[given.memory] == REUSED:
        nw.reuse_memory()
    torch.set_num_threads(1)
    norm = nw.GroupNorm if given.layers == "ours" else nn.GroupNorm
    net = nw.nets.resnet(50, lambda channels: norm(32, channels), num_classes=1000)
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-4, momentum=0.9)
    x, labels = torch.randn(given.batch, 3, 224, 224), torch.randint(1000, (given.batch,))

    def step() -> float:
        start = time.process_time()
        loss = nn.functional.cross_entropy(net(x), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return time.process_time() - start

    step()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    seconds = [step() for _ in range(given.steps)]
    usage = resource.getrusage(resource.RUSAGE_SELF)
    optimizer.zero_grad()
    faults = (usage.ru_minflt - before) / given.steps
    kept = int(STATM.read_text().split()[1]) * resource.getpagesize() >> 20
    sys.stdout.write(
        f"memory {REGIMES[given.memory]}, {given.layers}, batch {given.batch}: {statistics.median(seconds):.2f} s of "
        f"processor time, {faults:.0f} page faults, peak {usage.ru_maxrss >> 10} MB, afterwards {kept} MB\n"
    )


if __name__ == "__main__":
    main()
