"""Operations that move values about without changing them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .gaussian import Signal


def rearrange(operation: Callable[..., Any], x: Signal, *args: Any, **kwargs: Any) -> Any:
    """Any view, permutation or selection: carried out on the channels' numbers, which then say where channels are.

    Where they end up spread over several dimensions (a channel dimension that is split into heads), the last one is
    taken for the channels, with the moments of all.
    """
    numbers = torch.arange(x.channels, dtype=torch.int32)
    shape = [1] * len(x.shape)
    shape[x.axis] = x.channels
    return _carried(x, operation(numbers.view(shape).expand(x.shape), *args, **kwargs))


def _carried(x: Signal, numbers: Any) -> Any:
    if not isinstance(numbers, Tensor):
        return type(numbers)(_carried(x, part) for part in numbers)
    if numbers.numel() == 0:
        raise NotImplementedError("an operation that leaves an empty tensor")
    axis = _axis(numbers)
    if axis is not None:
        line = _line(numbers, axis).long()
        return x.moved(x.mean[line], x.variance[line], numbers.shape, axis)
    pooled = x.moved(x.mean, x.variance, (1, x.channels), 1).along(0)
    whole = torch.ones(numbers.shape[-1], dtype=torch.float64)
    return x.moved(pooled.mean * whole, pooled.variance * whole, numbers.shape, numbers.dim() - 1)


def _axis(numbers: Tensor) -> int | None:
    """The dimension along which alone the channels' numbers change."""
    order = sorted(range(numbers.dim()), key=lambda d: (d != 1, d == 0, -d))
    for axis in order:
        shape = [1] * numbers.dim()
        shape[axis] = -1
        if bool((numbers == _line(numbers, axis).view(shape)).all()):
            return axis
    return None


def _line(numbers: Tensor, axis: int) -> Tensor:
    return numbers.movedim(axis, -1).reshape(-1, numbers.shape[axis])[0]


def concatenate(tensors: Sequence[Signal], dim: int = 0) -> Signal:
    """`torch.cat`: of channels side by side, of positions a mixture."""
    first = tensors[0]
    dim %= len(first.shape)
    parts = [t.along(first.axis) for t in tensors]
    sizes = torch.tensor([t.shape[dim] for t in parts], dtype=torch.float64)
    shape = [*first.shape[:dim], int(sizes.sum()), *first.shape[dim + 1 :]]
    means, variances = [t.mean for t in parts], [t.variance for t in parts]
    if dim == first.axis:
        return first.moved(torch.cat(means), torch.cat(variances), shape)
    return _mixture(first, means, variances, sizes / sizes.sum(), shape)


def _mixture(
    like: Signal, means: Sequence[Tensor], variances: Sequence[Tensor], shares: Tensor, shape: Sequence[int]
) -> Signal:
    """Law of total variance over parts of the positions."""
    mean = shares @ torch.stack(list(means))
    between = (torch.stack(list(means)) - mean).square()
    return like.moved(mean, shares @ (torch.stack(list(variances)) + between), shape)


def pad(x: Signal, pad: Sequence[int], mode: str = "constant", value: float | None = None) -> Signal:
    """`torch.nn.functional.pad`: a constant at some positions or in new channels; other modes repeat the signal."""
    shape = list(x.shape)
    mean, variance = x.mean, x.variance
    for i, (before, behind) in enumerate(zip(pad[::2], pad[1::2], strict=True)):
        dim = len(shape) - 1 - i
        whole = shape[dim] + before + behind
        if min(before, behind) < 0:
            raise NotImplementedError("pad with negative numbers")
        if dim == x.axis:
            mean = torch.nn.functional.pad(mean, (before, behind), value=value or 0.0)
            variance = torch.nn.functional.pad(variance, (before, behind))
        elif mode == "constant":
            shares = torch.tensor([shape[dim], before + behind], dtype=torch.float64) / whole
            constant = torch.full_like(mean, value or 0.0)
            mixed = _mixture(x, [mean, constant], [variance, torch.zeros_like(variance)], shares, shape)
            mean, variance = mixed.mean, mixed.variance
        shape[dim] = whole
    return x.moved(mean, variance, shape)
