"""Running statistics as values, and the types of the functions' statistics and options."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol, TypedDict

import torch
from torch import Tensor

from normwise.core.arguments import check_input
from normwise.core.history import without_history
from normwise.core.known import check_counter, check_moments
from normwise.core.layout import check_memory
from normwise.core.moments import Moments
from normwise.core.numbers import check_eps, check_momentum
from normwise.core.precision import table_dtype
from normwise.core.running import RunningStatistics
from normwise.core.tables import check_required, check_required_tables, check_tables


class Epilogue(TypedDict, total=False):
    """The options of the operations after a normalization: ``f(norm(x) + residual)``."""

    activation: str | None
    residual: Tensor | None


class Options(Epilogue, total=False):
    """The options of the epilogue, and the mask of the values that count."""

    mask: Tensor | None


def check_options(caller: str, options: Epilogue, known: type[Epilogue] = Options) -> None:
    """TypeError for any option that a function does not have, such as a misspelt one."""
    strange = [name for name in options if name not in known.__annotations__]
    if strange:
        raise TypeError(
            f"{caller}() got an unexpected keyword argument {strange[0]!r}; besides its own it takes "
            f"{', '.join(known.__annotations__)}."
        )


class Statistics(Protocol):
    """Any object with a mean and a variance per channel, ``[C]``, ``[1, C]`` or ``[N, C]``."""

    @property
    def mean(self) -> Tensor: ...

    @property
    def var(self) -> Tensor: ...


class Running(NamedTuple):
    """Running statistics as values: a layer's ``running_mean``, ``running_var`` and ``num_batches_tracked``.

    ``mean`` and (unbiased) ``var`` are ``[C]``; ``batches`` is the number of batches behind them.
    """

    mean: Tensor
    var: Tensor
    batches: Tensor


def initial_statistics(channels: int, *, device: Any = None, dtype: torch.dtype | None = None) -> Running:
    """The running statistics of a fresh layer, ``[C]`` each: mean 0, variance 1, no batches.

    >>> initial_statistics(2).var
    tensor([1., 1.])
    """
    mean = torch.zeros(channels, device=device, dtype=dtype)
    return Running(mean, torch.ones_like(mean), torch.zeros((), device=device, dtype=torch.long))


def update_statistics(old: Running, statistics: Moments, momentum: float | None = 0.1) -> Running:
    r"""The running statistics after one more batch; ``old`` is not changed.

    .. math:: \text{new} = (1 - a)\,\text{old} + a\,\text{batch}

    ``momentum`` is a, the weight of the *new* value, or None for the cumulative average. The variance is updated with
    the **unbiased** one. The statistics of instances, ``[N, C]``, are averaged over N, as in InstanceNorm. A batch
    without a value changes nothing and is not counted; one that is not finite is used as it is. No gradient passes.

    Raises TypeError for statistics that are not `Moments`, ValueError for another number of channels.

    >>> import torch
    >>> from normwise.functional import batch_norm
    >>> running = initial_statistics(3)
    >>> for x in torch.randn(2, 8, 3, 5):
    ...     running = update_statistics(running, batch_norm(x)[1], momentum=None)
    >>> running.batches
    tensor(2)
    """
    _check_update(old, statistics, momentum)
    # Updated in place, on new tensors: inside a transform these are batched wherever the statistics are.
    table = statistics.detached()
    like = table.mean.sum(0)
    mean, var = (torch.zeros_like(like, dtype=t.dtype) + t.detach() for t in (old.mean, old.var))
    batches = torch.zeros_like(like.sum(), dtype=old.batches.dtype) + old.batches
    RunningStatistics(mean, var, batches, momentum).update_from_instances(table)
    return Running(mean, var, batches)


def _check_update(old: Running, statistics: Moments, momentum: float | None) -> None:
    """Require running statistics, and moments with as many channels."""
    caller = "update_statistics"
    if isinstance(statistics, Moments):
        check_moments(caller, statistics.mean, statistics)
    else:
        raise TypeError(
            f"{caller}: statistics must be the Moments of a batch, received {type(statistics).__name__}; give the "
            "second result of a function such as batch_norm."
        )
    check_momentum(caller, momentum)
    check_required(caller, statistics.mean, statistics.mean.shape[1:], mean=old.mean, var=old.var)
    check_counter(caller, statistics.mean, old.batches)


def as_known(caller: str, statistics: Statistics, x: Tensor) -> Moments:
    """Given statistics as a table that replaces the measured one of ``x``."""
    for name in ("mean", "var"):
        table = getattr(statistics, name, None)
        if not isinstance(table, Tensor):  # a tensor's own `mean` is a method
            raise TypeError(
                f"{caller}: statistics must have a mean and a var, as Running(mean, var, batches) and "
                f"Moments(mean, var, count) do, received {type(statistics).__name__}."
            )
        check_required_tables(caller, x, **{name: table})
    mean, var = (t if t.dim() == 2 else t.unsqueeze(0) for t in (statistics.mean, statistics.var))
    check_memory(mean, var)
    dtype = table_dtype(x)
    mean, var = without_history(mean).to(dtype), without_history(var).to(dtype)
    known = Moments(mean, var, statistics.count if isinstance(statistics, Moments) else 1)
    check_moments(caller, x, known)
    return known


def in_tensors(table: Moments) -> Moments:
    """The table with its count as a tensor, since a transform returns only tensors."""
    return Moments(table.mean, table.var, torch.as_tensor(table.count, device=table.mean.device))


def check_maps(caller: str, x: Tensor, eps: Any, **tables: Tensor | None) -> None:
    """Check ``[N, C, *space]``, ε and the tables of channels, for all functions of maps."""
    check_input(x, caller)
    check_eps(caller, eps)
    check_tables(caller, x, **tables)
