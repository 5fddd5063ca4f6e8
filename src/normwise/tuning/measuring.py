"""Timing the contests: both contestants take turns, and the ratio of their times must hold in most rounds."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from datetime import date
from typing import Any

import torch

from normwise.backends import use_backend
from normwise.backends.cpu_library import ELEMENTS, kernels
from normwise.backends.tunings import Tuning, stored
from normwise.errors import InputError
from normwise.operations.context import context_of
from normwise.operations.request import Request, operation_of
from normwise.operations.ways import by_graph, by_kernels, by_torch

from .contests import SIZES, Contest, Step, contests

DTYPES = {name: dtype for dtype, name in ELEMENTS.items()}
ROUNDS = 12
#: Rounds after which a contest ends if all its ratios are clearly on one side.
FEW_ROUNDS, DOUBT = 3, 1.25
#: Seconds of a contestant in one round; shorter steps are repeated.
SHARE = 1.5e-3
MOST_REPEATS = 100
#: A larger ratio is an accident: one contestant's threads had to wait for a busy processor.
MOST = 32

#: Called after each cell with the contest, whether there was a backward pass, and the ratios by size.
Listener = Callable[[Contest, bool, dict[int, float]], None]


def measure(device: str, element: str, threads: int, listen: Listener | None = None) -> Tuning:
    """Measure a tuning of this machine; afterwards torch has its former number of threads.

    With one thread the process' own time is measured, which other work disturbs less; with several, and on a GPU,
    the elapsed time. Raises `InputError` where there are no kernels.
    """
    if device == "cpu" and (reason := kernels(DTYPES[element])[1]) is not None:
        raise InputError(f"There are no kernels to measure: {reason}")
    ratios = {}
    before = torch.get_num_threads()
    if threads:
        torch.set_num_threads(threads)
    try:
        for contest in contests(device):
            for graph in (False, True):
                found = dict(_cell(contest, device, DTYPES[element], graph=graph))
                if found:
                    ratios[contest.operation, contest.layout, graph] = found
                if listen is not None:
                    listen(contest, graph, found)
    finally:
        torch.set_num_threads(before)
    about = stored.machine_of(device)
    return Tuning(*about, element, threads, torch.__version__, date.today().isoformat(), ratios)


def _cell(contest: Contest, device: str, dtype: torch.dtype, *, graph: bool) -> Iterator[tuple[int, float]]:
    place = torch.device(device)
    for size in SIZES[place.type]:
        steps = steps_of(contest.request(size, place, dtype, graph=graph), graph=graph)
        if steps is not None:
            found = ratio(*steps, clock_of(place))
            if found is not None:
                yield size, found


def steps_of(request: Request, *, graph: bool) -> tuple[Step, Step] | None:
    """A step by torch's operator and one by a kernel; None if one of them does not serve the request."""
    on_gpu = request.x.is_cuda
    context = context_of(request)
    if operation_of(request, context.pool) == "formula":
        bind_theirs, bind_ours = by_graph.bind, by_graph.bind
    else:
        bind_theirs, bind_ours = by_torch.bind if on_gpu else by_torch.bind_alone, by_kernels.bind
    theirs: Any = bind_theirs(request, context)
    with use_backend("triton") if on_gpu else nullcontext():
        ours: Any = bind_ours(request, context_of(request))
    if isinstance(theirs, str) or isinstance(ours, str):
        return None
    return step_of(theirs, request, graph=graph), step_of(ours, request, graph=graph)


def step_of(way: Any, request: Request, *, graph: bool) -> Step:
    """A forward pass, and with a graph a backward pass."""
    if not graph:
        return lambda: way.run(request)
    leaves = [t for t in (request.x, *request.parameters) if t is not None]
    grad_y = torch.ones_like(request.x)
    return lambda: torch.autograd.grad(way.run(request)[0], leaves, grad_y)


def clock_of(device: torch.device) -> Callable[[], float]:
    """A clock in seconds; on a GPU it waits until all work is done."""
    if device.type == "cpu":
        return time.process_time if torch.get_num_threads() == 1 else time.perf_counter

    def done() -> float:
        torch.cuda.synchronize(device)
        return time.perf_counter()

    return done


def ratio(theirs: Step, ours: Step, now: Callable[[], float]) -> float | None:
    """The ratio of their time to ours that three rounds in four reach or pass; None if they disagree which is less.

    In each round both take their turn, so that other work on the machine affects both.
    """

    def seconds(step: Step, repeats: int) -> float:
        start = now()
        for _ in range(repeats):
            step()
        return max((now() - start) / repeats, 1e-9)

    theirs()
    ours()
    repeats = max(1, min(MOST_REPEATS, int(SHARE / max(seconds(theirs, 1), seconds(ours, 1)))))
    found: list[float] = []
    for i in range(ROUNDS):
        # The order alternates, so that no contestant always begins.
        if i % 2:
            of_theirs, of_ours = seconds(theirs, repeats), seconds(ours, repeats)
        else:
            of_ours, of_theirs = seconds(ours, repeats), seconds(theirs, repeats)
        found.append(of_theirs / of_ours)
        if len(found) >= FEW_ROUNDS and (min(found) > DOUBT or max(found) < 1 / DOUBT):
            break
    lower, _, upper = statistics.quantiles(found)
    sure = lower if lower > 1 else upper if upper < 1 else None
    return sure if sure is not None and 1 / MOST <= sure <= MOST else None
