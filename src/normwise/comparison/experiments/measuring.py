"""Measurements of a user's own training, from outside."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

NOT_MEASURED = {"step_ms": None, "peak_memory_bytes": None, "memory_kind": None}
# The first steps warm caches up.
UNTIMED_STEPS = 3


@contextmanager
def measured(device: str) -> Iterator[dict[str, Any]]:
    """The median time between the steps of the optimizers in the block, and on CUDA the peak of allocated memory."""
    found: dict[str, Any] = dict(NOT_MEASURED)
    times: list[float] = []
    hook = register_optimizer_step_post_hook(lambda *_: times.append(time.perf_counter()))
    on_cuda = torch.device(device).type == "cuda"
    if on_cuda:
        torch.cuda.reset_peak_memory_stats(device)
    try:
        yield found
    finally:
        hook.remove()
    between = [later - earlier for earlier, later in pairwise(times)][UNTIMED_STEPS:]
    found["step_ms"] = 1e3 * statistics.median(between) if between else None
    if on_cuda:
        found["peak_memory_bytes"] = torch.cuda.max_memory_allocated(device)
        found["memory_kind"] = "CUDA caching allocator"
