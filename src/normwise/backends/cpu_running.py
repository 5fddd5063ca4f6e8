"""A layer's running statistics, moved by one call of the library where torch needs half a dozen operations."""

from __future__ import annotations

import torch
from torch import Tensor

from normwise.core.running import RunningStatistics

from .cpu_library import NOT_FINITE, failure, function
from .cpu_tensors import kept_in, room, span


def remembers(dtype: torch.dtype, running: RunningStatistics) -> bool:
    """Whether `remember` can move these buffers, of a layer whose input is of ``dtype``."""
    mean, var, batches, momentum = running
    kind = mean.dtype
    if momentum is None or kind is not var.dtype or kept_in(kind, dtype) is None:
        return False
    for t in (mean, var, batches):
        if t is not None and not (type(t) is Tensor and t.is_cpu and t.is_contiguous() and not t.is_inference()):
            return False
    return batches is None or batches.dtype is torch.int64


def remember(
    dtype: torch.dtype, running: RunningStatistics, mean: Tensor, root: Tensor | None, eps: float, count: int
) -> bool:
    """`RunningStatistics.update` by a batch of ``count`` values with ``mean`` and ``root`` = 1/√(σ² + ε).

    Without a ``root``, the mean is a whole table of mean and variance, see `Fused.standardize`. False, and nothing
    changed, where the statistics are not finite or of a tensor's subclass.
    """
    if type(mean) is not Tensor:
        return False
    running_mean, running_var, batches, momentum = running
    moved = [running_mean, running_var] if batches is None else [running_mean, running_var, batches]
    address, count_of_means = room(mean)  # made by the operator or the kernel just now
    if root is None:
        count_of_means //= 2
        measured = address, count_of_means, address + mean.nbytes // 2, count_of_means  # type: ignore[operator]
    else:
        measured = address, count_of_means, *room(root)
    arguments = (
        count_of_means,
        *measured,
        kept_in(mean.dtype, dtype),
        0.0 if root is None else eps,
        count / (count - 1),
        momentum,
        *span(running_mean),
        *span(running_var),
        kept_in(running_mean.dtype, dtype),
        *span(batches),
    )
    answer = function("nw_remember", dtype)(*arguments)
    if answer == NOT_FINITE:
        return False
    if answer:
        raise failure("nw_remember", answer, arguments)
    # As torch's own in-place operations do: a graph that saved them must notice.
    torch._C._increment_version(moved)  # pyright: ignore[reportAttributeAccessIssue]
    return True
