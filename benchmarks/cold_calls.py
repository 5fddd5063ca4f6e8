"""What a call of a layer takes in a loop, and what between other work, ours and torch's by turns.

    OMP_NUM_THREADS=1 python benchmarks/cold_calls.py [ROUNDS]

Microseconds of small tensors, medians, for the forward pass with a graph and for the backward pass. The other work
before each pass writes 4 MB, runs a small linear layer both ways, and 2,400 lines of Python.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

import normwise as nw
from normwise.bench.subjects import PixelLayerNorm

SHAPE = (2, 32, 8, 8)
PAIRS = {
    "BatchNorm": (nw.BatchNorm2d(32), nn.BatchNorm2d(32)),
    "GroupNorm": (nw.GroupNorm(8, 32), nn.GroupNorm(8, 32)),
    "InstanceNorm": (nw.InstanceNorm2d(32, affine=True), nn.InstanceNorm2d(32, affine=True)),
    "LayerNorm, rows": (nw.LayerNorm(8), nn.LayerNorm(8)),
    "LayerNorm2d": (nw.LayerNorm2d(32), PixelLayerNorm(32, eps=1e-6)),
}
WARM_UP = 10


class OtherWork:
    """What drives a layer's data and code out of the caches."""

    def __init__(self) -> None:
        self.values, self.linear = torch.zeros(1 << 20), nn.Linear(64, 64)
        text = "\n".join(f"a{i} = {i} * 2 + len('{i}')" for i in range(400))
        self.programs = [compile(text, str(i), "exec") for i in range(6)]

    def __call__(self) -> None:
        self.values.add_(1.0)
        self.linear(torch.ones(8, 64)).sum().backward()
        for program in self.programs:
            exec(program, {})


def passes(layer: nn.Module, before: Callable[[], object]) -> tuple[int, int]:
    """Nanoseconds of a forward and a backward pass, with something ``before`` each."""
    x, grad_y = torch.randn(SHAPE, requires_grad=True), torch.randn(SHAPE)
    leaves: list[Tensor] = [x, *layer.parameters()]
    before()
    start = time.perf_counter_ns()
    y = layer(x)
    forward = time.perf_counter_ns() - start
    before()
    start = time.perf_counter_ns()
    torch.autograd.grad(y, leaves, grad_y)
    return forward, time.perf_counter_ns() - start


def main(rounds: int = 100) -> None:
    torch.set_num_threads(1)
    nw.build_kernels(torch.float32)
    for name, layers in PAIRS.items():
        for state, before in (("in a loop", lambda: None), ("between other work", OtherWork())):
            found: list[list[tuple[int, int]]] = [[], []]
            for i in range(WARM_UP + rounds):
                for which in (0, 1) if i % 2 else (1, 0):
                    found[which].append(passes(layers[which], before))
            times = [[statistics.median(t[k] for t in f[WARM_UP:]) / 1e3 for f in found] for k in (0, 1)]
            shown = (
                f"{word} {a:.1f} ({a - b:+.1f})" for word, (a, b) in zip(("forward", "backward"), times, strict=True)
            )
            print(f"{name}, {state}: {', '.join(shown)} us (more than torch's)", flush=True)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
