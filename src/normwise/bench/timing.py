"""Interleaved timing: every contestant runs in every round, and the medians over the rounds are compared."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from functools import partial

import torch

#: ``wall`` is elapsed time; ``cpu`` is the process' own time over all its threads, which other work on a shared machine
#: disturbs less.
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
ROUNDS = 5
#: Seconds of a contestant in one round; short functions are repeated.
SHARE = 5e-3
MOST_REPEATS = 1000
#: A GPU's second-level cache is smaller than this: writing so much between two runs empties it.
FLUSH_BYTES = 256 << 20

#: From the functions by name and the number of rounds to seconds by name.
Timer = Callable[[Mapping[str, Callable[[], object]], int], dict[str, float]]


def cpu_timer(clock: str = "wall") -> Timer:
    """A timer by one of the `CLOCKS`, which can be sent to other processes."""
    return partial(_on_cpu, CLOCKS[clock])


def _on_cpu(now: Callable[[], float], functions: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    def seconds(function: Callable[[], object], repeats: int) -> float:
        start = now()
        for _ in range(repeats):
            function()
        return (now() - start) / repeats

    return _medians(functions, rounds, seconds)


def cuda_timer(device: torch.device) -> Timer:
    """A timer by CUDA events around each run, with cold caches; host time is hidden behind the flush of the cache."""
    flush = torch.empty(FLUSH_BYTES, dtype=torch.int8, device=device)

    def seconds(function: Callable[[], object], repeats: int) -> float:
        events = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(repeats)]
        for start, end in events:
            flush.zero_()
            start.record()
            function()
            end.record()
        torch.cuda.synchronize(device)
        return statistics.median(start.elapsed_time(end) for start, end in events) / 1e3

    return lambda functions, rounds: _medians(functions, rounds, seconds)


def _medians(
    functions: Mapping[str, Callable[[], object]], rounds: int, seconds: Callable[[Callable[[], object], int], float]
) -> dict[str, float]:
    """Time the functions in turns; the median seconds of each."""
    for function in functions.values():
        function()
    repeats = {
        name: max(1, min(MOST_REPEATS, int(SHARE / max(seconds(function, 1), 1e-6))))
        for name, function in functions.items()
    }
    names = list(functions)
    found: dict[str, list[float]] = {name: [] for name in names}
    for i in range(rounds):
        # The order changes, so that no contestant always runs first, or right after the copy.
        first = i % len(names)
        for name in names[first:] + names[:first]:
            found[name].append(seconds(functions[name], repeats[name]))
    return {name: statistics.median(times) for name, times in found.items()}
