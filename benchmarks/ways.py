"""Which way is faster at which size: one kernel each way, or torch's operator; the ratio of their times.

    OMP_NUM_THREADS=1 python benchmarks/ways.py

Every layer goes both ways in turns, forward and backward and forward alone; above 1 the kernel is faster. The bounds in
`operations/by_torch.py` follow from it.
"""

import sys
import time

import torch

import normwise as nw
from normwise.operations import by_graph, by_kernels, by_torch, plain, ways

ORDERS = {
    "kernel": (by_kernels.bind, by_torch.bind, by_graph.bind, plain.bind),
    "torch": (by_torch.bind_few_rows, by_torch.bind, by_kernels.bind, by_graph.bind, plain.bind),
}
LAYERS = {
    "BatchNorm2d": lambda: nw.BatchNorm2d(32),
    "BatchNorm2d, evaluation": lambda: nw.BatchNorm2d(32).eval(),
    "GroupNorm": lambda: nw.GroupNorm(8, 32),
    "InstanceNorm2d": lambda: nw.InstanceNorm2d(32, affine=True),
}
ROWS = {"LayerNorm": lambda: nw.LayerNorm(256), "RMSNorm": lambda: nw.RMSNorm(256)}


def best(work, calls, windows=12):
    """Seconds of processor time of one call."""
    for _ in range(calls):
        work()
    found = []
    for _ in range(windows):
        start = time.process_time()
        for _ in range(calls):
            work()
        found.append((time.process_time() - start) / calls)
    return min(found)


def seconds(layer, x, graph):
    calls, leaf = max(3, min(100, 4_000_000 // x.numel())), x.clone().requires_grad_(graph)
    leaves, cotangent = [leaf, *layer.parameters()], torch.randn_like(x)
    if graph:
        return best(lambda: torch.autograd.grad(layer(leaf), leaves, cotangent), calls)
    with torch.no_grad():
        return best(lambda: layer(leaf), calls)


def ratio(make, x, graph):
    times = {}
    for name, order in ORDERS.items():
        ways.WAYS = order
        ways._kept.clear()
        times[name] = seconds(make(), x, graph)
    return times["torch"] / times["kernel"]


def shown(name, make, inputs):
    for graph in (True, False):
        cells = (f"2^{x.numel().bit_length() - 1}: {ratio(make, x, graph):.2f}" for x in inputs)
        sys.stdout.write(f"{name}, {'forward + backward' if graph else 'forward'}: {', '.join(cells)}\n")
        sys.stdout.flush()


def main():
    for layout in (torch.contiguous_format, torch.channels_last):
        for name, make in LAYERS.items():
            inputs = [torch.randn(2, 32, s, s).contiguous(memory_format=layout) for s in (4, 8, 16, 32, 64, 128)]
            shown(f"{name}, {layout}", make, inputs)
    for name, make in ROWS.items():
        shown(name, make, [torch.randn(rows, 256) for rows in (8, 32, 128, 512, 2048)])


if __name__ == "__main__":
    main()
