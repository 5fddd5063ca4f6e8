"""Measure the figures of docs/performance.md on this machine's CPU, and make the page.

    python docs/measure_performance.py [steps|overhead|layers|threads]
Every instruction set is measured in a separate process with one thread, in processor time; `threads` measures with all
threads, in elapsed time, for which the machine must be idle. The rows are in docs/results; after an interruption the
same command continues. `make_performance.py` makes the tables from them.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import torch

from normwise.bench import step, sweep
from normwise.bench.cases import Axes, Site, expand
from normwise.bench.entry import OVERHEAD_ROUNDS, Request
from normwise.bench.regimes import Processes
from normwise.bench.terminal import Ticker
from normwise.comparison.terminal import make_console

HERE = Path(__file__).parent
RESULTS = HERE / "results"
#: The environments of the instruction sets: all of the processor's, and AVX2 only for both our kernels and torch's.
INSTRUCTIONS = {
    "native": {"NORMWISE_MARCH": "native"},
    "x86-64-v3": {"NORMWISE_MARCH": "x86-64-v3", "ATEN_CPU_CAPABILITY": "avx2"},
}
CLASSIC = ("batch", "group", "instance", "layer")
ACTIVATED = tuple((name, False) for name in (None, "relu", "silu", "gelu", "mish", "tanh", "leaky_relu"))
#: A part of the shapes of `normwise bench`, which a shared machine measures in an hour.
SITES = (
    Site("U-Net", (4, 128, 64, 64), ("group",), ACTIVATED),
    Site(
        "transformer",
        (8, 197, 768),
        ("token-layer",),
        ((None, False), (None, True), ("relu", True), ("gelu", True), ("silu", False)),
    ),
    Site("ResNet-50", (8, 256, 28, 28), CLASSIC),
    Site("ResNet-50", (8, 256, 28, 28), ("batch",), (("relu", True), ("silu", False))),
    Site("nnU-Net", (1, 32, 48, 48, 48), ("instance",), ((None, False), ("leaky_relu", False))),
    Site("ResNet-50", (8, 2048, 7, 7), CLASSIC),
    Site("odd", (16, 256, 9, 9), CLASSIC),
    Site("ConvNeXt", (8, 96, 56, 56), ("pixel-layer",), ((None, False), ("gelu", False), ("silu", True))),
    Site("transformer", (8, 197, 768), ("token-rms",)),
    Site("tiny", (2, 32, 8, 8), ("batch", "group", "instance")),
    Site("U-Net", (2, 64, 64, 64), ("switchable", "filter-response", "renorm", "evo-s0")),
)


def grid(file: str, clock: str, threads: int) -> None:
    """The grid, forward + backward, in this process' instruction set."""
    request = Request(clock=clock, threads=(threads,))
    cases = list(expand(SITES, Axes(directions=("both",), threads=(threads,), memory=request.memory())))
    with Ticker(make_console()) as ticker, Processes(request.memory()) as call:
        sweep.run(cases, request.options(), RESULTS / file, clock=clock, call=call, listen=ticker)


def layers() -> None:
    """The grid with one thread."""
    grid("cpu.csv", "cpu", 1)


def threads() -> None:
    """The grid with all threads."""
    grid("cpu_threads.csv", "wall", torch.get_num_threads())


def steps() -> None:
    """The training steps of all nets with one thread."""
    request = Request(clock="cpu", threads=(1,))
    wanted = step.steps((1,), memory=request.memory())
    with Processes(request.memory()) as call:
        step.run(wanted, request.options(), RESULTS / "step.csv", clock="cpu", call=call, listen=print)


def overhead() -> None:
    """The cost of a call without its arithmetic."""
    request = Request(clock="cpu", threads=(1,))
    options = request.options(OVERHEAD_ROUNDS)
    sweep.run(request.overhead_cases(), options, RESULTS / "overhead.csv", clock="cpu")


PARTS = {"steps": steps, "overhead": overhead, "layers": layers, "threads": threads}


def main() -> None:
    for part in PARTS:
        for instructions in INSTRUCTIONS if part == "layers" else ("native",):
            environment = {**os.environ, **INSTRUCTIONS[instructions], "OMP_NUM_THREADS": "1"}
            if part == "threads":
                del environment["OMP_NUM_THREADS"]
            subprocess.run([sys.executable, __file__, part], env=environment, check=True)
    subprocess.run([sys.executable, str(HERE / "make_performance.py")], check=True)


if __name__ == "__main__":
    PARTS[sys.argv[1]]() if len(sys.argv) == 2 else main()
