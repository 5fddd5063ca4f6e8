"""Pooling and resizing: averages and maxima of independent values."""

from __future__ import annotations

import math
from collections.abc import Sequence
from math import prod

import torch
from torch import nn
from torch.nn import functional as F

from .gaussian import Signal
from .geometry import adaptive_windows, joint_counts, padded_windows, pooling_windows, resized_power, tuple_of

Size = int | Sequence[int] | None


def max_pool(
    x: Signal,
    kernel_size: int | Sequence[int],
    stride: Size = None,
    padding: int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Signal:
    """`torch.nn.functional.max_pool1d`, `max_pool2d`, `max_pool3d`."""
    _refuse(return_indices, "return_indices=True")
    rank = len(x.shape) - 2
    pool = (F.max_pool1d, F.max_pool2d, F.max_pool3d)[rank - 1]
    shape = pool(_empty(x), kernel_size, stride, padding, dilation, ceil_mode).shape  # type: ignore[arg-type]
    kernel, strides, pads, apart = (tuple_of(v, rank) for v in (kernel_size, stride or kernel_size, padding, dilation))
    x, more = x.along(1).without_padding(-math.inf)
    before = [p + first for p, (first, _) in zip(pads, more, strict=True)]
    windows = pooling_windows(x.shape[2:], shape[2:], kernel, strides, before, apart)
    return x.maximum(windows.counts(), shape)


def average_pool(
    x: Signal,
    kernel_size: int | Sequence[int],
    stride: Size = None,
    padding: int | Sequence[int] = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Signal:
    """`torch.nn.functional.avg_pool1d`, `avg_pool2d`, `avg_pool3d`."""
    rank = len(x.shape) - 2
    pool = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)[rank - 1]
    shape = pool(_empty(x), kernel_size, stride, padding, ceil_mode).shape  # type: ignore[arg-type]
    kernel, strides, pads = (tuple_of(v, rank) for v in (kernel_size, stride or kernel_size, padding))
    windows = pooling_windows(x.shape[2:], shape[2:], kernel, strides, pads, (1,) * rank)
    counted = padded_windows(x.shape[2:], shape[2:], kernel, strides, pads) if count_include_pad else windows
    counts = [(n, divisor_override or d, share) for (n, d), share in joint_counts(windows, counted)]
    return _average(x.along(1), counts, shape)


def adaptive_average_pool(x: Signal, output_size: Size | Sequence[int | None]) -> Signal:
    """`torch.nn.functional.adaptive_avg_pool1d`, `adaptive_avg_pool2d`, `adaptive_avg_pool3d`."""
    size = _adaptive_size(x, output_size)
    counts = [(n, n, share) for n, share in adaptive_windows(x.shape[2:], size).counts()]
    return _average(x.along(1), counts, (*x.shape[:2], *size))


def adaptive_max_pool(x: Signal, output_size: Size | Sequence[int | None], return_indices: bool = False) -> Signal:
    """`torch.nn.functional.adaptive_max_pool1d`, `adaptive_max_pool2d`, `adaptive_max_pool3d`."""
    _refuse(return_indices, "return_indices=True")
    size = _adaptive_size(x, output_size)
    return x.along(1).maximum(adaptive_windows(x.shape[2:], size).counts(), (*x.shape[:2], *size))


def mean_over(x: Signal, dim: int | Sequence[int] | None = None, keepdim: bool = False, dtype: object = None) -> Signal:
    """`x.mean(dim)` over positions."""
    dims = range(len(x.shape)) if dim is None else (dim,) if isinstance(dim, int) else dim
    dims = sorted(d % len(x.shape) for d in dims)
    _refuse(0 in dims or x.axis in dims, f"mean over dimensions {dims}, of which one is the samples' or the channels'")
    count = prod(x.shape[d] for d in dims)
    shape = [1 if d in dims else n for d, n in enumerate(x.shape) if keepdim or d not in dims]
    axis = x.axis if keepdim else x.axis - sum(d < x.axis for d in dims)
    return x.moved(x.mean, x.variance / count, shape, axis)


def interpolate(
    x: Signal,
    size: Size = None,
    scale_factor: float | Sequence[float] | None = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None,
    antialias: bool = False,
) -> Signal:
    """`torch.nn.functional.interpolate` by nearest neighbours or linearly."""
    linear = {"linear": 1, "bilinear": 2, "trilinear": 3}
    _refuse(antialias or mode not in (*linear, "nearest", "nearest-exact"), f"mode={mode!r}, antialias={antialias}")
    shape = F.interpolate(_empty(x), size, scale_factor, mode, align_corners, recompute_scale_factor).shape  # type: ignore[arg-type]
    if mode not in linear:
        return x.moved(x.mean, x.variance, shape)
    power = prod(resized_power(n, m, align_corners) for n, m in zip(x.shape[2:], shape[2:], strict=True))
    return x.moved(x.mean, x.variance * power, shape)


def _average(x: Signal, counts: Sequence[tuple[int, int, float]], shape: Sequence[int]) -> Signal:
    """The sum of n values over d, for each (n, d, share of the outputs): padding may count as zeros."""
    part = sum(share * n / d for n, d, share in counts)
    noise = sum(share * n / d**2 for n, d, share in counts)
    uneven = sum(share * (n / d - part) ** 2 for n, d, share in counts)
    return x.moved(x.mean * part, x.variance * noise + x.mean.square() * uneven, shape)


def _adaptive_size(x: Signal, output_size: Size | Sequence[int | None]) -> tuple[int, ...]:
    wanted = tuple_of(output_size, len(x.shape) - 2)  # type: ignore[arg-type]
    return tuple(length if n is None else n for n, length in zip(wanted, x.shape[2:], strict=True))


def _empty(x: Signal) -> torch.Tensor:
    return torch.empty(x.shape, device="meta")


def _refuse(condition: bool, operation: str) -> None:
    if condition:
        raise NotImplementedError(operation)


def _pool_arguments(module, *names: str) -> dict[str, object]:
    return {name: getattr(module, name) for name in names if hasattr(module, name)}


def _max_pool_module(module, options, x: Signal) -> Signal:
    names = ("kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices")
    return max_pool(x, **_pool_arguments(module, *names))  # type: ignore[arg-type]


def _average_pool_module(module, options, x: Signal) -> Signal:
    names = ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override")
    return average_pool(x, **_pool_arguments(module, *names))  # type: ignore[arg-type]


def _upsample_module(module: nn.Upsample, options, x: Signal) -> Signal:
    names = ("size", "scale_factor", "mode", "align_corners", "recompute_scale_factor")
    return interpolate(x, **_pool_arguments(module, *names))  # type: ignore[arg-type]


RULES = {
    **dict.fromkeys((nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d), _max_pool_module),
    **dict.fromkeys((nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d), _average_pool_module),
    **dict.fromkeys(
        (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d),
        lambda module, options, x: adaptive_average_pool(x, module.output_size),
    ),
    **dict.fromkeys(
        (nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d),
        lambda module, options, x: adaptive_max_pool(x, module.output_size, module.return_indices),
    ),
    nn.Upsample: _upsample_module,
}
