"""A layer's running statistics, updated by one call of the library where torch needs half a dozen operations."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from normwise.core.running import RunningStatistics

from .cpu_library import NOT_FINITE, answer_packed, failure
from .cpu_tensors import DOUBLE, address, kept_in, room


def remembers(dtype: torch.dtype, running: RunningStatistics) -> bool:
    """See `Remembering.remembers`."""
    mean, var, batches, momentum = running
    kind = mean.dtype
    if momentum is None or kind is not var.dtype or kept_in(kind, dtype) is None:
        return False
    for t in (mean, var, batches):
        if t is not None and not (type(t) is Tensor and t.is_cpu and t.is_contiguous() and not t.is_inference()):
            return False
    return batches is None or batches.dtype is torch.int64


def remember(dtype: torch.dtype, running: RunningStatistics, mean: Tensor, var: Tensor | None, count: int) -> bool:
    """See `Remembering.remember`."""
    running_mean, running_var, batches, momentum = running
    place, channels = room(mean)  # a kernel has just allocated it, and the variance
    if var is None:
        channels //= 2
        measured = place, channels, place + mean.nbytes // 2, channels
    else:
        measured = place, channels, *room(var)
    moved = [running_mean, running_var] if batches is None else [running_mean, running_var, batches]
    arguments: tuple[Any, ...] = (
        channels,
        *measured,
        DOUBLE,
        count / (count - 1),
        momentum,
        address(running_mean, running_mean.numel()),
        running_mean.numel(),
        address(running_var, running_var.numel()),
        running_var.numel(),
        kept_in(running_mean.dtype, dtype),
        0 if batches is None else address(batches, 1),
        0 if batches is None else batches.numel(),
    )
    answer = answer_packed("nw_remember", dtype, *arguments)
    if answer == NOT_FINITE:
        return False
    if answer:
        raise failure("nw_remember", answer, arguments)
    # As torch's own in-place operations do, so that a graph that saved the buffers notices the change.
    torch._C._increment_version(moved)  # pyright: ignore[reportAttributeAccessIssue]
    return True
