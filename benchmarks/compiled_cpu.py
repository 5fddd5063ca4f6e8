"""Inside `torch.compile` on CPU: which of three ways is fastest for a normalizer?

    python benchmarks/compiled_cpu.py --out results/compiled_cpu.csv

"formula" are plain operations, which the compiler fuses; "native" is torch's operator in the compiled graph;
"operator" are the kernels behind `torch.library`. Beside them torch's layer in eager mode. The net is a normalizer
with or without an activation, forward and backward, each way checked against fp64 and then all timed interleaved.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from normwise.bench import environment
from normwise.bench.cases import Case
from normwise.bench.check import error, make_data, oracle, randomize, take_over
from normwise.bench.measure import step
from normwise.bench.storage import Rows
from normwise.bench.subjects import baselines, ours
from normwise.bench.timing import CLOCKS, cpu_timer
from normwise.operations.ways import by_torch, choosing, compiled, plain

WAYS = ("formula", "native", "operator")
#: Shape, type and layout.
KINDS = (
    ((8, 256, 28, 28), "fp32", "contiguous"),
    ((8, 256, 28, 28), "fp32", "channels_last"),
    ((8, 256, 28, 28), "bf16", "channels_last"),
    ((2, 32, 8, 8), "fp32", "contiguous"),
)
LAYERS = ("batch", "group", "instance")
ACTIVATIONS = (None, "relu", "silu")
COLUMNS = (
    *("layer", "shape", "dtype", "layout", "activation", "threads"),
    *(f"{way}_ms" for way in WAYS),
    *("eager_ms", "fastest", "error", *environment.COLUMNS, environment.DATE),
)
ROUNDS = 7


BINDS = {
    "formula": (plain.bind,),
    "native": (by_torch.bind, plain.bind),
    "operator": (compiled.bind, plain.bind),
}


def only(way: str, function: Callable[..., object]) -> Callable[..., object]:
    """``function`` with the layers going one way; the compiler's guards see to it that its graph is the one of that."""

    def call(*arguments: object) -> object:
        everyone, choosing.WAYS = choosing.WAYS, BINDS[way]
        try:
            return function(*arguments)
        finally:
            choosing.WAYS = everyone

    return call


def measured(case: Case, clock: str) -> dict[str, object]:
    """Milliseconds of each way."""
    torch.compiler.reset()
    data = make_data(case, torch.device("cpu"))
    first = ours(case)
    randomize(first)
    eager, exact = baselines(case)["native"], baselines(case)["native"]
    for layer in (eager, exact):
        take_over(layer.inner, first)
    wanted = oracle(case, exact, data)
    functions, worst = {"eager": step(case, eager.to(data.x.dtype), data)}, 0.0
    for way in WAYS:
        layer = ours(case)
        layer.load_state_dict(first.state_dict())
        compiled = torch.compile(layer.to(data.x.dtype), fullgraph=True)
        worst = max(worst, only(way, error)(case, compiled, data, wanted))  # type: ignore[call-overload]
        functions[way] = only(way, step(case, compiled, data))  # type: ignore[arg-type]
    seconds = cpu_timer(clock)(functions, ROUNDS)
    times = {f"{name}_ms": 1e3 * value for name, value in seconds.items()}
    return times | {"fastest": min(WAYS, key=lambda way: seconds[way]), "error": worst}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    options = parser.parse_args()
    about = environment.environment(torch.device("cpu"), options.clock, "automatic")
    with Rows(options.out, COLUMNS) as file:
        for kind, layer, activation in itertools.product(KINDS, LAYERS, ACTIVATIONS):
            case = Case(layer, "", *kind, "both", torch.get_num_threads(), activation)
            found = {name: case.columns()[name] for name in COLUMNS[:6]} | measured(case, options.clock)
            row = file.append(found | about | {environment.DATE: environment.today()})
            sys.stdout.write(" ".join(list(row.values())[:12]) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
