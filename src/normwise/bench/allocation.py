"""The cost of the allocator: a large tensor allocated, written and freed, against a kept one that is written again."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import torch

try:
    from resource import RUSAGE_SELF, getrusage
except ImportError:  # Windows
    getrusage = None

#: Above 32 MB, up to which glibc may keep a freed block without any setting.
SIZE = 64 << 20
ROUNDS = 5
_HUGE = 2 << 20


class Cost(NamedTuple):
    """Medians over the rounds, in ms and page faults (None if the system counts none): a tensor of ``size`` bytes
    allocated, written and freed (``fresh``), and a kept one that is written again (``kept``)."""

    size: int
    fresh_ms: float
    kept_ms: float
    fresh_faults: float | None
    kept_faults: float | None

    @property
    def anew(self) -> bool:
        """Whether a freed tensor's memory goes back to the system: at least every second huge page is mapped anew.

        Without a count of faults: whether ``fresh`` takes half as long again as ``kept``.
        """
        if self.fresh_faults is None:
            return self.fresh_ms > 1.5 * self.kept_ms
        return self.fresh_faults >= self.size / _HUGE / 2


def measure(size: int = SIZE, rounds: int = ROUNDS) -> Cost:
    """Measure both in turns, after one round that does not count."""
    kept = torch.empty(size, dtype=torch.uint8, device="cpu")
    functions = {"fresh": lambda: torch.empty_like(kept).fill_(1), "kept": lambda: kept.fill_(1)}
    found: dict[str, list[tuple[float, int]]] = {name: [] for name in functions}
    for _ in range(rounds + 1):
        for name, function in functions.items():
            found[name].append(_once(function))
    ms, faults = (
        {name: statistics.median(values[k] for values in rows[1:]) for name, rows in found.items()} for k in (0, 1)
    )
    if getrusage is None:
        return Cost(size, ms["fresh"], ms["kept"], None, None)
    return Cost(size, ms["fresh"], ms["kept"], faults["fresh"], faults["kept"])


def _once(function: Callable[[], object]) -> tuple[float, int]:
    faults, start = _faults(), time.perf_counter()
    function()
    return 1e3 * (time.perf_counter() - start), _faults() - faults


def _faults() -> int:
    return 0 if getrusage is None else getrusage(RUSAGE_SELF).ru_minflt
