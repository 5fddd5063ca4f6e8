"""One cell: make the data, check every layer against fp64, then time them interleaved."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
from torch import nn

from ..backends import build_kernels, select, use_backend
from .bytes_model import floor_bytes
from .cases import DTYPES, Case
from .check import TOLERANCE, Data, error, make_data, oracle, randomize, take_over
from .peers import PEERS
from .subjects import SUBJECTS, baselines, ours
from .timing import ROUNDS, Timer

AUTOMATIC = "automatic"
#: Columns of milliseconds, in the order of the tables.
CONTESTANTS = ("ours", "native", "compiled", "autotuned", "paper", *PEERS)
RESULTS = (
    *("status", "message", "error", "baseline_error"),
    *(f"{name}_ms" for name in CONTESTANTS),
    *("ratio", "x_of_floor", "gb_per_s", "copy_gb_per_s", "served_by"),
)
OK, WRONG, FAILED = "ok", "wrong", "failed"
# Without CUDA graphs, as for all contestants: the time between two events does not include host time.
_MODES = {"compiled": None, "autotuned": "max-autotune-no-cudagraphs"}


class Options(NamedTuple):
    """The options for every cell. ``compiled`` are columns: "compiled" (the default mode) and "autotuned"."""

    device: torch.device
    timer: Timer
    backend: str = AUTOMATIC
    compiled: tuple[str, ...] = ()
    peers: bool = False
    rounds: int = ROUNDS


def measure(case: Case, options: Options) -> dict[str, Any]:
    """The results of one case, by column; a wrong layer is not timed, a failing one reports its error."""
    if options.device.type == "cpu":
        build_kernels(DTYPES[case.dtype])
    torch.manual_seed(0)
    # torch's layers ignore the chosen backend, so the choice may hold for the whole cell.
    chosen = nullcontext() if options.backend == AUTOMATIC else use_backend(options.backend)
    try:
        with chosen:
            return _measured(case, options)
    except RuntimeError as problem:  # for example out of memory: the other cells are still measured
        return {"status": FAILED, "message": f"{type(problem).__name__}: {problem}".splitlines()[0]}
    finally:
        torch.compiler.reset()


def _measured(case: Case, options: Options) -> dict[str, Any]:
    """Check and time one case, whose backend is already chosen."""
    data = make_data(case, options.device)
    layer = ours(case)
    randomize(layer)
    _prepared(case, layer, options.device)
    contestants: dict[str, nn.Module] = {"ours": layer}
    for name, other in baselines(case).items():
        take_over(other.inner, layer)
        contestants[name] = _prepared(case, other, options.device)
    baseline = list(contestants)[1]
    exact = oracle(case, copy.deepcopy(contestants[baseline]), data)  # type: ignore[arg-type]
    row: dict[str, Any] = {
        "error": error(case, layer, data, exact),
        "baseline_error": error(case, contestants[baseline], data, exact),
        "served_by": select(data.x).name,
    }
    if not row["error"] <= TOLERANCE[DTYPES[case.dtype]]:
        return row | {"status": WRONG}
    return row | {"status": OK} | _timed(case, options, data, contestants, baseline)


def _prepared(case: Case, layer: Any, device: torch.device) -> Any:
    return layer.to(device, DTYPES[case.dtype]).train(SUBJECTS[case.layer].training)


def _timed(
    case: Case, options: Options, data: Data, contestants: dict[str, nn.Module], baseline: str
) -> dict[str, Any]:
    """Time the contestants, and compute the figures."""
    for column in options.compiled:
        contestants[column] = torch.compile(contestants[baseline], mode=_MODES[column])  # type: ignore[assignment]
    for name, make in PEERS.items() if options.peers else ():
        peer = make(case)
        if peer is not None:
            contestants[name] = _prepared(case, peer, options.device)
    functions = {name: step(case, layer, data) for name, layer in contestants.items()}
    source, target = data.x.detach(), torch.empty_like(data.x)
    functions["copy"] = lambda: target.copy_(source)
    seconds = options.timer(functions, options.rounds)
    return _figures(case, options.device.type, seconds, baseline)


def step(case: Case, layer: nn.Module, data: Data) -> Callable[[], object]:
    """The step to be timed: a forward pass without a graph, a backward pass alone, or both."""
    inputs = [t for t in (data.x, data.residual) if t is not None]
    leaves = [*inputs, *(p for p in layer.parameters() if p.requires_grad)]

    def forward() -> object:
        with torch.no_grad():
            return layer(*inputs)

    def both() -> object:
        return torch.autograd.grad(layer(*inputs), leaves, data.grad_y)

    if case.direction != "backward":
        return forward if case.direction == "forward" else both
    y = layer(*inputs)
    return lambda: torch.autograd.grad(y, leaves, data.grad_y, retain_graph=True)


def _figures(case: Case, device: str, seconds: dict[str, float], baseline: str) -> dict[str, Any]:
    """The columns of a timed row: milliseconds, ratios, floor and bandwidth."""
    element = torch.empty(0, dtype=DTYPES[case.dtype]).element_size()
    size = math.prod(case.shape) * element
    moved = floor_bytes(
        case.layer,
        case.shape,
        element,
        last=case.last,
        direction=case.direction,
        residual=case.residual,
        device=device,
    )
    bandwidth = 2 * size / seconds["copy"]
    return {
        **{f"{name}_ms": value * 1e3 for name, value in seconds.items() if name != "copy"},
        "ratio": seconds[baseline] / seconds["ours"],
        "x_of_floor": seconds["ours"] / (moved / bandwidth),
        "gb_per_s": moved / seconds["ours"] / 1e9,
        "copy_gb_per_s": bandwidth / 1e9,
    }
