"""What `trace` costs beside a plain forward pass, and a logged step of `watch` beside a plain training step.

    python benchmarks/trace.py [--rounds 9]

ResNet-50 with BatchNorm, batch 8, 224×224, fp32, one thread of the CPU. Ratios of the process' own time (which other
work on the machine disturbs less), measured in turns in one run: the median, and the extremes.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable

import torch

import normwise as nw


def seconds(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def compare(name: str, work: Callable[[], object], plain: Callable[[], object], rounds: int) -> float:
    """The median of the ratios."""
    work()
    plain()
    ratios = [seconds(work) / seconds(plain) for _ in range(rounds)]
    sys.stdout.write(f"{name:48} {statistics.median(ratios):6.3f}   ({min(ratios):.3f} to {max(ratios):.3f})\n")
    sys.stdout.flush()
    return statistics.median(ratios)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=9)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    model = nw.nets.resnet(50, norm="batch")
    batch = torch.randn(8, 3, 224, 224)

    def forward() -> None:
        with torch.no_grad():
            model(batch)

    def train() -> None:
        model(batch).square().mean().backward()
        model.zero_grad()

    def watched(every: int) -> Callable[[], object]:
        def work() -> None:
            with nw.watch(model, lambda *_: None, every=every) as watch:
                watch._steps = every - 1 if every > 1 else 0  # a step that is not logged
                train()

        return work

    compare("trace / forward pass (training mode)", lambda: nw.trace(model, batch), forward, rounds)
    logged = compare("logged step of watch / training step", watched(1), train, rounds)
    compare("other step of watch / training step", watched(100), train, rounds)
    sys.stdout.write(f"overhead of watch at its default interval: {(logged - 1) / 100:.2%}\n")


if __name__ == "__main__":
    main()
