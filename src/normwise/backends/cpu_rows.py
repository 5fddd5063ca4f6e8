"""The kernels of `cpu.py` that normalize neighbours: rows over their width, positions over their channels."""

from __future__ import annotations

import torch
from torch import Tensor

from normwise.core.moments import statistics_dtype

from .cpu_library import call, pointer, threads
from .huge_pages import empty_like

Gradients = tuple[Tensor | None, Tensor | None, Tensor | None]


def rows(
    x: Tensor, width: int, weight: Tensor | None, bias: Tensor | None, eps: float, center: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """``y = γ (x - μ)/√(σ² + ε) + β`` over each row of ``width`` neighbours, and the rows' μ and 1/√(σ² + ε), fp64.

    Without ``center``, μ is 0 and σ² the mean square. ``x`` is contiguous; parameters have ``width`` values.
    """
    y = empty_like(x)
    sizes = (x.numel() // width, width)
    return y, *_forward("nw_rows", x, sizes, sizes[:1], weight, bias, eps, center, y)


def rows_backward(
    grad_y: Tensor,
    x: Tensor,
    width: int,
    weight: Tensor | None,
    mean: Tensor,
    root: Tensor,
    center: bool,
    need_x: bool,
    need_weight: bool,
    need_bias: bool,
) -> Gradients:
    """The gradients of x, weight and bias, those that are needed; the parameters' in the statistics' dtype."""
    sizes = (x.numel() // width, width)
    return _backward(
        "nw_rows_backward", grad_y, x, sizes, width, weight, mean, root, center, need_x, need_weight, need_bias
    )


def columns(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, center: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """`rows` over the channels at each position of a contiguous ``[N, C, *space]``; the tables are ``[N, S]``."""
    y = empty_like(x)
    sizes = _planes(x)
    return y, *_forward("nw_columns", x, sizes, (sizes[0], sizes[2]), weight, bias, eps, center, y)


def columns_backward(
    grad_y: Tensor,
    x: Tensor,
    weight: Tensor | None,
    mean: Tensor,
    root: Tensor,
    center: bool,
    need_x: bool,
    need_weight: bool,
    need_bias: bool,
) -> Gradients:
    """`rows_backward` for `columns`."""
    sizes, needs = _planes(x), (need_x, need_weight, need_bias)
    return _backward("nw_columns_backward", grad_y, x, sizes, x.shape[1], weight, mean, root, center, *needs)


def _planes(x: Tensor) -> tuple[int, int, int]:
    samples, channels = x.shape[:2]
    return samples, channels, x.numel() // (samples * channels)


def _forward(
    kernel: str,
    x: Tensor,
    sizes: tuple[int, ...],
    table: tuple[int, ...],
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    center: bool,
    y: Tensor,
) -> tuple[Tensor, Tensor]:
    mean, root = torch.empty((2, *table), dtype=torch.float64).unbind()
    # Named, so that a converted parameter lives until the kernel has read it: an address alone keeps nothing.
    tensors = (x, parameter(weight, x.dtype), parameter(bias, x.dtype), y, mean, root)
    call(kernel, x.dtype, *sizes, threads(), center, eps, *map(pointer, tensors))
    return mean, root


def _backward(
    kernel: str,
    grad_y: Tensor,
    x: Tensor,
    sizes: tuple[int, ...],
    channels: int,
    weight: Tensor | None,
    mean: Tensor,
    root: Tensor,
    center: bool,
    need_x: bool,
    need_weight: bool,
    need_bias: bool,
) -> Gradients:
    grad_x = empty_like(x) if need_x else None
    kind = statistics_dtype(x.dtype)
    grad_weight, grad_bias = (torch.empty(channels, dtype=kind) if n else None for n in (need_weight, need_bias))
    tensors = (grad_y, x, parameter(weight, x.dtype), mean, root, grad_x, grad_weight, grad_bias)
    call(kernel, x.dtype, *sizes, threads(), center, *map(pointer, tensors))
    return grad_x, grad_weight, grad_bias


def parameter(p: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """A layer's parameter as the kernels for this element type read it."""
    kind = statistics_dtype(dtype)
    if p is None or (p.dtype is kind and p.is_contiguous()):
        return p
    return p.detach().to(kind).contiguous()
