"""The CPU kernels against torch.nn, forward and backward, interleaved in one run.

    python benchmarks/cpu.py --out results/bench_cpu.csv

Each cell is checked against fp64 before it is timed. ratio = native ÷ normwise (above 1: faster), from medians of the
rounds; "x of floor" = time ÷ (floor bytes ÷ the copy bandwidth measured for the same tensor and threads). With one
thread, `--clock cpu` counts the process' own time, which other work on the machine disturbs less.
"""

from __future__ import annotations

import argparse
import csv
import math
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
from bytes_model import floor_bytes
from torch import nn

import normwise as nw
from normwise.backends import huge_pages

# ResNet-50's stages, a U-Net, style transfer, nnU-Net patches, and small and odd sizes.
SHAPES = [
    (8, 64, 112, 112),
    (8, 256, 56, 56),
    (8, 512, 28, 28),
    (8, 1024, 14, 14),
    (8, 2048, 7, 7),
    (2, 64, 128, 128),
    (1, 128, 128, 128),
    (2, 32, 32, 64, 64),
    (16, 64, 32, 32),
    (3, 96, 17, 19),
    (2, 32, 8, 8),
]
LAYERS = {
    "batch": lambda k, c, rank: getattr(k, f"BatchNorm{rank}d")(c),
    "group": lambda k, c, _: k.GroupNorm(32, c),
    "instance": lambda k, c, rank: getattr(k, f"InstanceNorm{rank}d")(c, affine=True),
    "layer": lambda k, c, _: k.GroupNorm(1, c),
}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2}


def inputs(shape, dtype, last):
    layout = {4: torch.channels_last, 5: torch.channels_last_3d}[len(shape)] if last else torch.contiguous_format
    x, grad = (torch.randn(shape).to(dtype).to(memory_format=layout) for _ in range(2))
    return x.requires_grad_(), grad


def step(layer, x, grad):
    x.grad = None
    y = layer(x)
    y.backward(grad)
    return y


def check(name, layer, x, grad):
    """Output and gradient against fp64 before anything is timed."""
    # Not torch.nn: its InstanceNorm has a wrong gradient for a batch of one in channels_last.
    exact = LAYERS[name](nw, x.shape[1], x.dim() - 2).double()
    wide = x.detach().double().requires_grad_()
    with nw.use_backend("reference"):
        want = step(exact, wide, grad.double())
    got = step(layer, x, grad)
    for g, w in ((got, want), (x.grad, wide.grad)):
        error = (g.double() - w).abs().max() / w.abs().max()
        if not error < TOLERANCE[x.dtype]:
            raise SystemExit(f"{name} {tuple(x.shape)} {x.dtype}: error {error:.1e}")


def medians(functions, rounds, clock, budget):
    """Median seconds of each function, interleaved; short ones are repeated within a round."""
    times = [[] for _ in functions]
    repeats = []
    for f in functions:
        start = clock()
        f()
        repeats.append(max(1, min(50, int(budget / max(clock() - start, 1e-6)))))
    for _ in range(rounds):
        for f, found, n in zip(functions, times, repeats, strict=True):
            start = clock()
            for _ in range(n):
                f()
            found.append((clock() - start) / n)
    return [statistics.median(t) for t in times]


def cell(name, shape, dtype, last, rounds, clock):
    x, grad = inputs(shape, dtype, last)
    native, ours = (LAYERS[name](k, shape[1], len(shape) - 2).to(dtype) for k in (nn, nw))
    check(name, ours, x, grad)
    copy = torch.empty_like(x)
    source = x.detach()
    functions = [lambda: step(native, x, grad), lambda: step(ours, x, grad), lambda: copy.copy_(source)]
    for f in functions:
        f()
    theirs, mine, copying = medians(functions, rounds, clock, 5e-3)
    size = x.numel() * x.element_size()
    moved = floor_bytes(name, shape, x.element_size(), last=last)
    return {
        "native_ms": theirs * 1e3,
        "normwise_ms": mine * 1e3,
        "ratio": theirs / mine,
        "gb_per_s": moved / mine / 1e9,
        "x_of_floor": mine / (moved * copying / (2 * size)),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, nargs="*", default=[1, torch.get_num_threads()])
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    options = parser.parse_args()
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    fixed = {
        "commit": commit.stdout.strip(),
        "torch": torch.__version__,
        "cpu": processor(),
        "clock": options.clock,
        "huge_pages": huge_pages.huge_pages(),
    }
    rows = []
    for threads in dict.fromkeys(options.threads):
        torch.set_num_threads(threads)
        for shape in SHAPES:
            for kind, dtype in DTYPES.items():
                for last in (False, True):
                    for name in LAYERS:
                        torch.manual_seed(0)
                        where = {"layer": name, "shape": "x".join(map(str, shape)), "dtype": kind, "threads": threads}
                        where["layout"] = "channels_last" if last else "contiguous"
                        found = cell(name, shape, dtype, last, options.rounds, CLOCKS[options.clock])
                        rows.append(where | {k: f"{v:.4g}" for k, v in found.items()} | fixed)
                        sys.stdout.write(" ".join(f"{v}" for v in list(rows[-1].values())[:10]) + "\n")
                        sys.stdout.flush()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with options.out.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    for name in LAYERS:
        ratios = [float(r["ratio"]) for r in rows if r["layer"] == name]
        mean = math.exp(sum(map(math.log, ratios)) / len(ratios))
        sys.stdout.write(f"{name}: geometric mean {mean:.2f}, least {min(ratios):.2f} of {len(ratios)} cells\n")


def processor():
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())


if __name__ == "__main__":
    main()
