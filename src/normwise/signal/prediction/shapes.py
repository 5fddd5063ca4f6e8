"""Operations that rearrange values without changing them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from .gaussian import Padding, Signal


def rearrange(operation: Callable[..., Any], x: Signal, *args: Any, **kwargs: Any) -> Any:
    """Any view, permutation or selection: applied to the channels' indices, which then show the new channel axis.

    If the channels are then spread over several dimensions (split into heads, for example), the last one counts as the
    channel axis, with the moments of all.
    """
    numbers = torch.arange(x.channels, dtype=torch.int32)
    shape = [1] * len(x.shape)
    shape[x.axis] = x.channels
    args = tuple(numbers[:1].expand(arg.shape) if isinstance(arg, Signal) else arg for arg in args)  # view_as
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
    """The only dimension along which the channels' indices change; None if there are several."""
    order = sorted(range(numbers.dim()), key=lambda d: (d != 1, d == 0, -d))
    for axis in order:
        shape = [1] * numbers.dim()
        shape[axis] = -1
        if bool((numbers == _line(numbers, axis).view(shape)).all()):
            return axis
    return None


def _line(numbers: Tensor, axis: int) -> Tensor:
    return numbers.movedim(axis, -1).reshape(-1, numbers.shape[axis])[0]


def concatenate(tensors: Sequence[Signal | Tensor], dim: int = 0) -> Signal:
    """`torch.cat`: channels are put side by side, positions form a mixture."""
    first = next(t for t in tensors if isinstance(t, Signal))
    dim %= len(first.shape)
    parts = [t.along(first.axis) if isinstance(t, Signal) else Signal.measured(t, first.axis) for t in tensors]
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
    if min(pad) < 0:
        raise NotImplementedError("pad with negative numbers")
    pairs = [(0, 0)] * (len(x.shape) - len(pad) // 2) + list(zip(pad[-2::-2], pad[::-2], strict=True))
    shape = [n + sum(pair) for n, pair in zip(x.shape, pairs, strict=True)]
    fill = value or 0.0
    padded = _with_channels(x, pairs[x.axis], fill) if mode == "constant" else x
    inside = math.prod(x.shape[d] / shape[d] for d in range(len(shape)) if d != x.axis)
    if mode != "constant" or not math.isfinite(fill):
        inside = 1.0  # an infinity only keeps out of a maximum
    constant, nothing = torch.full_like(padded.mean, fill if inside < 1 else 0.0), torch.zeros_like(padded.mean)
    shares = torch.tensor([inside, 1 - inside], dtype=torch.float64)
    mixed = _mixture(padded, [padded.mean, constant], [padded.variance, nothing], shares, shape)
    only_space = mode == "constant" and not any(map(sum, pairs[:2])) and x.axis == 1
    return replace(mixed, padded=Padding(x, tuple(pairs[2:]), fill)) if only_space else mixed


def _with_channels(x: Signal, pair: tuple[int, int], value: float) -> Signal:
    mean, variance = F.pad(x.mean, pair, value=value), F.pad(x.variance, pair)
    return x.moved(mean, variance, [*x.shape[: x.axis], len(mean), *x.shape[x.axis + 1 :]])
