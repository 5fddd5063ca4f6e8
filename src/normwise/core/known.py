"""Checks of statistics that are given instead of measured: running ones, and those passed to a call."""

from __future__ import annotations

import torch
from torch import Tensor

from .moments import Count, Moments
from .running import RunningStatistics
from .tables import broadcasts, called, check_optional, check_place, check_required


def check_channels(
    caller: object,
    x: Tensor,
    channels: int,
    weight: Tensor | None,
    bias: Tensor | None,
    running: RunningStatistics | None,
) -> None:
    """Require γ, β and the running statistics in use to be ``[C]`` each, and the counter to be one integer."""
    if running is None:
        check_optional(caller, x, (channels,), weight=weight, bias=bias)
        return
    mean, var, batches, _ = running
    check_optional(caller, x, (channels,), weight=weight, bias=bias, running_mean=mean, running_var=var)
    if batches is None or (
        type(batches) is Tensor
        and batches.dtype is torch.int64
        and batches.numel() == 1
        and batches.is_cpu
        and x.is_cpu
        and batches.layout is torch.strided
    ):
        return
    check_counter(caller, x, batches)


def check_counter(caller: object, x: Tensor, batches: Tensor) -> None:
    """Require ``num_batches_tracked`` to be one int64 integer, as torch keeps it."""
    if isinstance(batches, Tensor) and batches.dtype is torch.int64:
        if batches.numel() == 1:
            check_place(caller, "num_batches_tracked", batches, x)
            return
        raise ValueError(
            f"{called(caller)}: num_batches_tracked must be one number, received {list(batches.shape)}; write "
            "torch.tensor(0)."
        )
    received = batches.dtype if isinstance(batches, Tensor) else type(batches).__name__
    raise TypeError(
        f"{called(caller)}: num_batches_tracked must be an int64 tensor of one number, received {received}; write "
        "torch.tensor(0)."
    )


def check_pair(caller: object, mean: object, var: object) -> None:
    """Require both running statistics, or neither."""
    if (mean is None) != (var is None):
        absent = "running_mean" if mean is None else "running_var"
        raise ValueError(
            f"{called(caller)}: running_mean and running_var must both be tensors or both be None; {absent} is None."
        )


def check_moments(caller: object, x: Tensor, moments: Moments) -> None:
    """Require `Moments` that broadcast against ``[N, C]``, to take the place of the moments of ``x``."""
    if not isinstance(moments, Moments):
        raise TypeError(
            f"{called(caller)}: moments must be Moments(mean, var, count), received {type(moments).__name__}; write "
            "Moments(mean, var, 1) where the count does not matter."
        )
    for name, table in (("mean", moments.mean), ("var", moments.var)):
        shape = table.shape if isinstance(table, Tensor) else x.shape[:2]
        check_required(caller, x, shape, **{f"the moments' {name}": table})
        if len(shape) != 2 or not broadcasts(shape, x.shape[:2]):
            raise ValueError(
                f"{called(caller)}: the moments' {name} must broadcast against [N, C] = {list(x.shape[:2])} with two "
                f"dimensions, received {list(shape)}; write {name}.unsqueeze(0) for one number of each channel."
            )
    _check_count(caller, x, moments.count)


def _check_count(caller: object, x: Tensor, count: Count) -> None:
    """Require a count of values: a number of at least 0, or a tensor that broadcasts against ``[N, C]``."""
    if isinstance(count, Tensor):
        if count.is_complex() or count.dtype is torch.bool:
            raise TypeError(f"{called(caller)}: the moments' count must hold real numbers, received {count.dtype}.")
        check_place(caller, "the moments' count", count, x)
        if not broadcasts(count.shape, x.shape[:2]):
            raise ValueError(
                f"{called(caller)}: the moments' count must be a number or broadcast against [N, C] = "
                f"{list(x.shape[:2])}, received {list(count.shape)}."
            )
    elif isinstance(count, bool) or not isinstance(count, (int, torch.SymInt)):
        raise TypeError(
            f"{called(caller)}: the moments' count must be a whole number or a tensor, received {type(count).__name__}."
        )
    elif count < 0:
        raise ValueError(f"{called(caller)}: the moments' count must be at least 0, received {count}.")
