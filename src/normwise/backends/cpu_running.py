"""A layer's running statistics, moved by one call of the library where torch needs half a dozen operations."""

from __future__ import annotations

import torch
from torch import Tensor

from normwise.core.running import RunningStatistics

from .cpu_library import function, out_of_memory, pointer
from .cpu_tensors import kept_in

_NOT_FINITE = 3


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
    changed, where the statistics are not finite.
    """
    running_mean, running_var, batches, momentum = running
    start = mean.data_ptr()
    moved = [running_mean, running_var] if batches is None else [running_mean, running_var, batches]
    answer = function("nw_remember", dtype)(
        running_mean.numel(),
        start,
        start + mean.nbytes // 2 if root is None else root.data_ptr(),
        kept_in(mean.dtype, dtype),
        0.0 if root is None else eps,
        count / (count - 1),
        momentum,
        running_mean.data_ptr(),
        running_var.data_ptr(),
        kept_in(running_mean.dtype, dtype),
        pointer(batches),
    )
    if answer == _NOT_FINITE:
        return False
    if answer:
        raise out_of_memory("nw_remember")
    # As torch's own in-place operations do: a graph that saved them must notice.
    torch._C._increment_version(moved)  # pyright: ignore[reportAttributeAccessIssue]
    return True
