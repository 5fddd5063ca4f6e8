"""Running statistics as values, and what the functions take as statistics and options."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol, TypedDict

import torch
from torch import Tensor

from normwise.core.moments import Moments, table_dtype
from normwise.core.running import RunningStatistics


class Epilogue(TypedDict, total=False):
    """What may follow a normalization: ``f(norm(x) + residual)``."""

    activation: str | None
    residual: Tensor | None


class Options(Epilogue, total=False):
    """The epilogue, and which values count."""

    mask: Tensor | None


class Statistics(Protocol):
    """Anything with a mean and a variance per channel, ``[C]``, ``[1, C]`` or ``[N, C]``."""

    @property
    def mean(self) -> Tensor: ...

    @property
    def var(self) -> Tensor: ...


class Running(NamedTuple):
    """Running statistics as values: a layer's ``running_mean``, ``running_var`` and ``num_batches_tracked``.

    ``mean`` and (unbiased) ``var`` are ``[C]``; ``batches`` counts what they have taken in.
    """

    mean: Tensor
    var: Tensor
    batches: Tensor


def initial_statistics(channels: int, *, device: Any = None, dtype: torch.dtype | None = None) -> Running:
    """The running statistics of a fresh layer: mean 0, variance 1, no batches."""
    mean = torch.zeros(channels, device=device, dtype=dtype)
    return Running(mean, torch.ones_like(mean), torch.zeros((), device=device, dtype=torch.long))


def update_statistics(old: Running, statistics: Moments, momentum: float | None = 0.1) -> Running:
    r"""The running statistics after one more batch; ``old`` stays as it is.

    .. math:: \text{new} = (1 - a)\,\text{old} + a\,\text{batch}

    ``momentum`` is a, the weight of the *new* value, or None for the cumulative average. The variance that goes in is
    the **unbiased** one. The statistics of instances, ``[N, C]``, are averaged over N, as InstanceNorm's are. A batch
    without a value changes nothing and is not counted; one that is not finite is taken in. No gradient passes.

    >>> from normwise.functional import batch_norm
    >>> running = initial_statistics(3)
    >>> for x in torch.randn(2, 8, 3, 5):
    ...     running = update_statistics(running, batch_norm(x)[1], momentum=None)
    >>> running.batches
    tensor(2)
    """
    # The update is made in place, on new tensors: a transform maps over them wherever it maps over the statistics.
    table = statistics.detached()
    like = table.mean.sum(0)
    mean, var = (torch.zeros_like(like, dtype=t.dtype) + t.detach() for t in (old.mean, old.var))
    batches = torch.zeros_like(like.sum(), dtype=old.batches.dtype) + old.batches
    RunningStatistics(mean, var, batches, momentum).update_from_instances(table)
    return Running(mean, var, batches)


def as_known(statistics: Statistics, x: Tensor) -> Moments:
    """Given statistics as the table that stands in for ``x``'s own."""
    for name in ("mean", "var"):
        table = getattr(statistics, name, None)
        if not isinstance(table, Tensor):  # a tensor's own `mean` is a method
            raise TypeError(
                "statistics must have a mean and a var, as Running(mean, var, batches) and Moments(mean, var, count) "
                f"do, received {type(statistics).__name__}."
            )
        check_tables(x, **{name: table})
    mean, var = (t if t.dim() == 2 else t.unsqueeze(0) for t in (statistics.mean, statistics.var))
    kind = table_dtype(x)
    return Moments(mean.to(kind), var.to(kind), statistics.count if isinstance(statistics, Moments) else 1)


def in_tensors(table: Moments) -> Moments:
    """The table with a count that is a tensor, too: a transform returns nothing else."""
    return Moments(table.mean, table.var, torch.as_tensor(table.count, device=table.mean.device))


def check_tables(x: Tensor, **tables: Tensor | None) -> None:
    """Each a table of channels, ``[C]``, ``[1, C]`` or ``[N, C]``."""
    channels, samples = x.shape[1], x.shape[0]
    for name, table in tables.items():
        if table is not None and table.shape not in ((channels,), (1, channels), (samples, channels)):
            raise ValueError(
                f"{name} must be [C] = [{channels}] or [N, C] = [{samples}, {channels}] for an input of shape "
                f"{list(x.shape)}, received {list(table.shape)}."
            )
