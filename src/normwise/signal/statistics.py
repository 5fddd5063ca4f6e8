"""The statistics of one activation per channel."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from normwise.core.moments import Moments, statistics_dtype
from normwise.core.precision import in_fp64
from normwise.operations.context import without_autocast
from normwise.operations.measure import measure

# Below this variance the squares of fp32 values are near underflow.
SMALLEST_VARIANCE = 1e-28
SMALLEST_NORM, LARGEST_NORM = 1e-12, 1e15


def measurable(x: Tensor) -> bool:
    """Whether an activation has a mean and a variance per channel."""
    return x.layout == torch.strided and x.is_floating_point() and x.dim() > 0 and x.numel() > 0 and not x.is_meta


def nonfinite_values(x: Tensor) -> int:
    """The number of NaN or infinite values; 0 for integers (tokens) and for tensors that are not dense."""
    if x.layout != torch.strided or not x.is_floating_point():
        return 0
    with torch.no_grad():
        # There are no operations for 8-bit floats.
        return int((~(x.detach().float() if x.itemsize == 1 else x.detach()).isfinite()).sum())


def channel_moments(x: Tensor, axis: int) -> tuple[Moments, int]:
    """Mean and **biased** variance of each channel, ``[1, C]``, and the number of values left out as NaN or inf.

    The table is in fp64 (on the CPU if the device has no fp64), because squares may exceed the range of fp32.
    """
    with torch.no_grad(), without_autocast(x):
        x = x.detach()
        table = _in_fp64(_moments(x, axis))
        if _in_range(table, x):
            return table, 0
        return _moments_of_finite(x, axis)


def mean_square(x: Tensor) -> float:
    """The average of ``x²``; in fp64 if the squares are out of fp32's range, as for vanishing gradients."""
    with torch.no_grad(), without_autocast(x):
        norm = torch.linalg.vector_norm(x.detach(), dtype=statistics_dtype(x.dtype)).item()
        if not SMALLEST_NORM < norm < LARGEST_NORM:
            norm = torch.linalg.vector_norm(in_fp64(x.detach())).item()
    return norm * norm / x.numel()


def constant_channels(table: Moments, dtype: torch.dtype) -> int:
    """The number of constant channels, with a tolerance: rounding may make the variance of a constant larger than 0."""
    rounding = 4 * torch.finfo(dtype).eps
    return int((table.var <= (rounding * table.mean).square()).sum())


def _in_range(table: Moments, x: Tensor) -> bool:
    """Whether all values are finite, and their squares neither overflow nor underflow in fp32."""
    largest = table.var.max().item()
    if not math.isfinite(largest) or not bool(table.mean.isfinite().all()):
        return False
    # If all means are 0, the values are 0 (a branch that is 0 at first), not small.
    return x.dtype == torch.float64 or largest > SMALLEST_VARIANCE or not bool(table.mean.any())


def _moments(x: Tensor, axis: int) -> Moments:
    channels = x.shape[axis]
    if x.is_contiguous() and axis % x.dim() < x.dim() - 1:
        planes = x.reshape(math.prod(x.shape[: axis % x.dim()]), channels, -1)
    else:  # the channels are contiguous in memory, or will be made so
        planes = x.movedim(axis, -1).reshape(1, -1, channels).transpose(1, 2)
    return measure(planes).over_batch()


def _in_fp64(table: Moments) -> Moments:
    return Moments(in_fp64(table.mean), in_fp64(table.var), table.count)


def _moments_of_finite(x: Tensor, axis: int) -> tuple[Moments, int]:
    values = in_fp64(x.movedim(axis, 0).reshape(1, x.shape[axis], -1))
    finite = values.isfinite()
    return Moments.of(values, finite), int((~finite).sum())
