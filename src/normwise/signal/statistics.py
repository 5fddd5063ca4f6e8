"""The statistics of one activation per channel."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from normwise.core.moments import Moments, statistics_dtype
from normwise.core.precision import in_fp64
from normwise.operations.context import without_autocast
from normwise.operations.measure import measure

# Below this variance the squares of fp32 values are about to vanish.
SMALLEST_VARIANCE = 1e-28
SMALLEST_NORM, LARGEST_NORM = 1e-12, 1e15


def measurable(x: Tensor) -> bool:
    """Whether an activation has a mean and a variance per channel."""
    return x.layout == torch.strided and x.is_floating_point() and x.dim() > 0 and x.numel() > 0 and not x.is_meta


def nonfinite_values(x: Tensor) -> int:
    """How many values are NaN or inf; 0 of what has none, such as tokens, and of what is not laid out in memory."""
    if x.layout != torch.strided or not x.is_floating_point():
        return 0
    with torch.no_grad():
        # Eight bits have no operations of their own.
        return int((~(x.detach().float() if x.itemsize == 1 else x.detach()).isfinite()).sum())


def channel_moments(x: Tensor, axis: int) -> tuple[Moments, int]:
    """Mean and **biased** variance of each channel, ``[1, C]``, and how many values were NaN or inf and left out.

    The table is in fp64, on the CPU where the device has none: what fp32 cannot square, it cannot hold either.
    """
    with torch.no_grad(), without_autocast(x):
        x = x.detach()
        table = _in_fp64(_moments(x, axis))
        if _in_range(table, x):
            return table, 0
        return _moments_of_finite(x, axis)


def mean_square(x: Tensor) -> float:
    """The average of ``x²``; in fp64 where the squares are not in fp32, as those of vanishing gradients."""
    with torch.no_grad(), without_autocast(x):
        norm = torch.linalg.vector_norm(x.detach(), dtype=statistics_dtype(x.dtype)).item()
        if not SMALLEST_NORM < norm < LARGEST_NORM:
            norm = torch.linalg.vector_norm(in_fp64(x.detach())).item()
    return norm * norm / x.numel()


def constant_channels(table: Moments, dtype: torch.dtype) -> int:
    """How many channels do not vary: the variance of a constant that is no power of two is a rounding, not 0."""
    rounding = 4 * torch.finfo(dtype).eps
    return int((table.var <= (rounding * table.mean).square()).sum())


def _in_range(table: Moments, x: Tensor) -> bool:
    """False where values are not finite, or so large or so small that their squares are not in fp32."""
    largest = table.var.max().item()
    if not math.isfinite(largest) or not bool(table.mean.isfinite().all()):
        return False
    # Means that are all 0 come from zeros (a branch that starts at 0), not from small values.
    return x.dtype == torch.float64 or largest > SMALLEST_VARIANCE or not bool(table.mean.any())


def _moments(x: Tensor, axis: int) -> Moments:
    channels = x.shape[axis]
    if x.is_contiguous() and axis % x.dim() < x.dim() - 1:
        planes = x.reshape(math.prod(x.shape[: axis % x.dim()]), channels, -1)
    else:  # the channels are neighbours in memory, or will be
        planes = x.movedim(axis, -1).reshape(1, -1, channels).transpose(1, 2)
    return measure(planes).over_batch()


def _in_fp64(table: Moments) -> Moments:
    return Moments(in_fp64(table.mean), in_fp64(table.var), table.count)


def _moments_of_finite(x: Tensor, axis: int) -> tuple[Moments, int]:
    values = in_fp64(x.movedim(axis, 0).reshape(1, x.shape[axis], -1))
    finite = values.isfinite()
    return Moments.of(values, finite), int((~finite).sum())
