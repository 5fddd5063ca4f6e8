"""Running statistics taken in by one call of a kernel."""

from __future__ import annotations

from torch import Tensor

from normwise.backends import cpu, select
from normwise.core.moments import Moments
from normwise.core.running import RunningStatistics

from .transforms import plain_operations_wanted


def remember(running: RunningStatistics, pooled: Moments, x: Tensor) -> bool:
    """`RunningStatistics.update_from_batch` for what was pooled over the batch ``x``, in the least time of the host.

    False, and nothing changed, where it is not the way: somebody looks at the operations, the tensors are not plain
    ones, or the statistics are not finite, which is for the layer's policy to judge.
    """
    mean, var, count = pooled
    if isinstance(count, Tensor) or count < 2 or mean.shape[0] != 1:
        return False
    if plain_operations_wanted() or select(x) is not cpu or not cpu.remembers(x.dtype, running):
        return False
    if not (mean.is_contiguous() and var.is_contiguous()):
        return False
    return cpu.remember(x.dtype, running, mean, var, 0.0, count)
