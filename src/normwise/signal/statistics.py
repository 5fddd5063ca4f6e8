"""The statistics of one activation per channel: exact, and in about one pass over memory."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from normwise.core.moments import Moments, statistics_dtype, table_dtype
from normwise.operations.transforms import without_autocast

# Values measured at a time by each thread of a CPU: they stay in its second-level cache.
CHUNK = 1 << 17
# Below this variance the squares of fp32 values are about to vanish.
SMALLEST_VARIANCE = 1e-28
SMALLEST_NORM, LARGEST_NORM = 1e-12, 1e15
# Where mean²/variance is larger, the rounding of an fp32 mean is no longer small beside the standard deviation.
FAR_FROM_ZERO = 1e4


def measurable(x: Tensor) -> bool:
    """Whether an activation has a mean and a variance per channel."""
    return x.layout == torch.strided and x.is_floating_point() and x.dim() > 0 and x.numel() > 0 and not x.is_meta


def channel_moments(x: Tensor, axis: int) -> tuple[Moments, int]:
    """Mean and **biased** variance of each channel, ``[1, C]``, and how many values were NaN or inf and left out."""
    with torch.no_grad(), without_autocast(x):
        x = x.detach()
        table = _moments(x, axis)
        if _in_range(table, x):
            return table, 0
        return _moments_of_finite(x, axis)


def mean_square(x: Tensor) -> float:
    """The average of ``x²``; in fp64 where the squares are not in fp32, as those of vanishing gradients."""
    with torch.no_grad(), without_autocast(x):
        norm = torch.linalg.vector_norm(x.detach(), dtype=statistics_dtype(x.dtype)).item()
        if not SMALLEST_NORM < norm < LARGEST_NORM:
            norm = torch.linalg.vector_norm(x.detach(), dtype=table_dtype(x)).item()
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
    size = math.prod(x.shape[axis + 1 :])
    if x.device.type != "cpu":
        rows = x.movedim(axis, -1).reshape(-1, channels).to(statistics_dtype(x.dtype))
        var, mean = torch.var_mean(rows, dim=0, keepdim=True, correction=0)
        return Moments(mean.to(table_dtype(x)), var.to(table_dtype(x)), rows.shape[0])
    if size > 1 and x.is_contiguous():
        mean, var = _of_parts(x.reshape(-1, size), 1)
        return Moments(mean.view(-1, channels), var.view(-1, channels), size).over_batch()
    rows = x.movedim(axis, -1).reshape(-1, channels)
    mean, var = _of_parts(rows, 0)
    step, last = _rows_at_a_time(channels), rows.shape[0] % _rows_at_a_time(channels)
    count = torch.full((len(mean), 1), step, dtype=mean.dtype, device="cpu")
    if last:
        count[-1] = last
    return Moments(mean, var, count).over_batch()


def _rows_at_a_time(size: int) -> int:
    return max(1, CHUNK * torch.get_num_threads() // size)


def _of_parts(matrix: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Mean and variance of a matrix along ``dim``, for some rows at a time: all of them for ``dim`` 1, each for 0.

    The rows are looked at as often as needed while they are in the cache. Far from zero the rounding of the mean
    matters, and what it left over is averaged, too.
    """
    dtype = statistics_dtype(matrix.dtype)
    parts = matrix.split(_rows_at_a_time(matrix.shape[1]))
    buffer = torch.empty(parts[0].shape, dtype=dtype, device="cpu")
    means, squares = [], []
    for part in parts:
        mean = part.mean(dim, keepdim=True, dtype=dtype)
        centered = torch.sub(part, mean, out=buffer[: len(part)])
        means.append(mean)
        squares.append(centered.square_().mean(dim, keepdim=True))
    mean, var = torch.cat(means).double(), torch.cat(squares).double()
    if not bool((mean.square() > FAR_FROM_ZERO * var).any()):
        return mean, var
    squares = []
    for i, part in enumerate(parts):
        centered = torch.sub(part, means[i], out=buffer[: len(part)])
        rest = centered.mean(dim, keepdim=True)
        means[i] = means[i].double() + rest
        squares.append(centered.sub_(rest).square_().mean(dim, keepdim=True))
    return torch.cat(means), torch.cat(squares).double()


def _moments_of_finite(x: Tensor, axis: int) -> tuple[Moments, int]:
    values = x.movedim(axis, 0).reshape(1, x.shape[axis], -1).to(table_dtype(x))
    finite = values.isfinite()
    return Moments.of(values, finite), int((~finite).sum())
