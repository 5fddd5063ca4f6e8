"""The statistics of one activation per channel: exact, and in about one pass over memory."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from normwise.core.moments import Moments, concatenate, statistics_dtype, table_dtype
from normwise.operations.transforms import without_autocast

# Values measured at a time by each thread of a CPU: they stay in its second-level cache.
CHUNK = 1 << 17
# Below this variance the squares of fp32 values are about to vanish.
SMALLEST_VARIANCE = 1e-28


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
    """The average of ``x²``, in fp64: the squares of small gradients are not in fp32."""
    with torch.no_grad():
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
    return x.dtype == torch.float64 or largest > SMALLEST_VARIANCE or not x.count_nonzero()


def _moments(x: Tensor, axis: int) -> Moments:
    channels = x.shape[axis]
    size = math.prod(x.shape[axis + 1 :])
    if x.device.type != "cpu":
        rows = x.movedim(axis, -1).reshape(-1, channels).to(statistics_dtype(x.dtype))
        var, mean = torch.var_mean(rows, dim=0, keepdim=True, correction=0)
        return Moments(mean.to(table_dtype(x)), var.to(table_dtype(x)), rows.shape[0])
    chunk = CHUNK * torch.get_num_threads()
    if size > 1 and x.is_contiguous():
        planes = x.reshape(-1, size).split(max(1, chunk // size))
        mean, var, _ = _of_parts(planes, 1)
        return Moments(mean.view(-1, channels), var.view(-1, channels), size).over_batch()
    rows = x.movedim(axis, -1).reshape(-1, channels).split(max(1, chunk // channels))
    return _of_parts(rows, 0).over_batch()


def _of_parts(parts: Sequence[Tensor], dim: int) -> Moments:
    """The moments of matrices along ``dim``, each matrix looked at as often as needed while it is in the cache."""
    dtype = statistics_dtype(parts[0].dtype)
    buffer = torch.empty(parts[0].numel(), dtype=dtype)
    tables = []
    for part in parts:
        mean = part.mean(dim, keepdim=True, dtype=dtype)
        centered = torch.sub(part, mean, out=buffer[: part.numel()].view(part.shape))
        rest = centered.mean(dim, keepdim=True)
        var = centered.sub_(rest).square_().mean(dim, keepdim=True)
        count = var.new_full((1, 1), part.shape[dim])
        tables.append(Moments(mean.double() + rest, var.double(), count.expand_as(var)))
    return concatenate(tables)


def _moments_of_finite(x: Tensor, axis: int) -> tuple[Moments, int]:
    values = x.movedim(axis, 0).reshape(1, x.shape[axis], -1).to(table_dtype(x))
    finite = values.isfinite()
    return Moments.of(values, finite), int((~finite).sum())
