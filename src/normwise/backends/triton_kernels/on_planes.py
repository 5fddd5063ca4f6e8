"""The passes over the planes of ``x[N, C, *space]`` around a formula on their table."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from normwise.backends.cpu_tensors import dense, like
from normwise.backends.huge_pages import empty_like
from normwise.core.activations import Activation
from normwise.core.moments import Moments, statistics_dtype

from . import geometry
from .device import code, on_device_of, wide
from .geometry import TILES_PER_PROGRAM, Pools, Tiling, ceiling


def moments(x: Tensor, mask: Tensor | None) -> Moments:
    """See `reference.moments`."""
    x, last = dense(x)
    pools = geometry.planes(x, last)
    mean, var, count = pooled(x, pools, as_bytes(mask))
    shape = x.shape[:2]
    number = pools.length if mask is None else count.view(shape)[:, :1]
    return Moments(mean.view(shape), var.view(shape), number)


def pooled(x: Tensor, pools: Pools, mask: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, variance and count of every pool, in the pools' order."""
    table = partial_moments(x, pools, mask)
    if mask is not None:
        # The first run found the means, from sums around 0; the second one sums around the means.
        table = partial_moments(x, pools, mask, pilots=_merged(x, table)[0])
    return _merged(x, table)


def partial_moments(
    x: Tensor, pools: Pools, mask: Tensor | None = None, pilots: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, variance and count of each share of every pool, ``[shares, pools]``."""
    tile = geometry.tiling(pools)
    steps_of_row = ceiling(pools.length, tile.block_length)
    steps = steps_of_row * ceiling(pools.rows, tile.block_rows)
    splits = ceiling(steps, TILES_PER_PROGRAM)
    mean, var, count = torch.empty(3, splits, pools.total, dtype=torch.float64, device=x.device).unbind()
    with on_device_of(x):
        code("pools").moments[(tile.blocks(pools) * splits,)](
            *(x, mask, pilots, mean, var, count, pools.total, pools.count, pools.rows, pools.length),
            *(pools.outer_stride, pools.pool_stride, pools.row_stride, pools.value_stride),
            *(x.shape[1], splits, steps, steps_of_row, TILES_PER_PROGRAM),
            *blocks_of(tile),
            JOINT=geometry.joint(pools, tile),
            WIDE=wide(x.dtype),
            num_warps=tile.warps,
        )
    return mean, var, count


def _merged(x: Tensor, shares: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    splits, number = shares[0].shape
    if splits == 1:
        return shares[0][0], shares[1][0], shares[2][0]
    mean, var, count = torch.empty(3, number, dtype=torch.float64, device=x.device).unbind()
    block, together = geometry.merging(splits)
    with on_device_of(x):
        code("pools").merge[(ceiling(number, block),)](*shares, mean, var, count, number, splits, block, together)
    return mean, var, count


def apply(
    x: Tensor,
    mean: Tensor,
    scale: Tensor,
    shift: Tensor,
    residual: Tensor | None,
    activation: Activation | None,
) -> Tensor:
    """See `reference.apply`."""
    x, last = dense(x)
    residual = like(x, residual)
    y = empty_like(x)
    pools, tile, steps = _walk(x, last)
    with on_device_of(x):
        code("planes").apply[(tile.blocks(pools) * steps,)](
            *(x, residual, y, mean, scale, shift, *strides(mean, scale, shift)),
            *(pools.count, pools.length, pools.outer_stride, pools.pool_stride, pools.value_stride),
            *(x.shape[1], steps),
            **options(x, tile, activation),
        )
    return y


def backward_reduce(
    grad_y: Tensor,
    x: Tensor,
    mean: Tensor,
    scale: Tensor,
    shift: Tensor,
    residual: Tensor | None,
    activation: Activation | None,
) -> tuple[Tensor, Tensor]:
    """See `reference.backward_reduce`."""
    x, last = dense(x)
    grad_y, residual = like(x, grad_y), like(x, residual)
    sums = partial_sums(grad_y, x, last, mean, scale, shift, residual, activation)
    sums = sums[:, 0] if sums.shape[1] == 1 else sums.sum(1)
    return sums[0].view(x.shape[:2]), sums[1].view(x.shape[:2])


def partial_sums(
    grad_y: Tensor,
    x: Tensor,
    last: bool,
    mean: Tensor,
    scale: Tensor,
    shift: Tensor,
    residual: Tensor | None,
    activation: Activation | None,
) -> Tensor:
    """The two sums of each share of every plane, ``[2, shares, N·C]``."""
    pools, tile, steps = _walk(x, last)
    splits = ceiling(steps, TILES_PER_PROGRAM)
    sums = torch.empty(2, splits, pools.total, dtype=statistics_dtype(x.dtype), device=x.device)
    with on_device_of(x):
        code("planes").backward_reduce[(tile.blocks(pools) * splits,)](
            *(grad_y, x, residual, sums[0], sums[1], mean, scale, shift, *strides(mean, scale, shift)),
            *(pools.total, pools.count, pools.length, pools.outer_stride, pools.pool_stride, pools.value_stride),
            *(x.shape[1], splits, steps, TILES_PER_PROGRAM),
            **options(x, tile, activation),
        )
    return sums


def backward_apply(
    grad_y: Tensor,
    x: Tensor,
    mean: Tensor,
    scale: Tensor,
    shift: Tensor,
    residual: Tensor | None,
    activation: Activation | None,
    slope: Tensor | None,
    offset: Tensor | None,
    mask: Tensor | None,
) -> tuple[Tensor, Tensor | None]:
    """See `reference.backward_apply`."""
    x, last = dense(x)
    grad_y, residual = like(x, grad_y), like(x, residual)
    grad_x, grad_residual = torch.empty_like(x), None if residual is None else torch.empty_like(residual)
    pools, tile, steps = _walk(x, last)
    tables = (mean, scale, shift, slope, offset)
    with on_device_of(x):
        code("planes").backward_apply[(tile.blocks(pools) * steps,)](
            *(grad_y, x, residual, as_bytes(mask), grad_x, grad_residual, *tables, *strides(*tables)),
            *(pools.count, pools.length, pools.outer_stride, pools.pool_stride, pools.value_stride),
            *(x.shape[1], steps),
            **options(x, tile, activation),
        )
    return grad_x, grad_residual


def _walk(x: Tensor, last: bool) -> tuple[Pools, Tiling, int]:
    """The planes, the tile, and the tiles along a plane."""
    pools = geometry.planes(x, last)
    tile = geometry.tiling(pools)
    return pools, tile, ceiling(pools.length, tile.block_length)


def as_bytes(mask: Tensor | None) -> Tensor | None:
    """A mask ``[N, 1, *space]`` in the kernels' form."""
    return None if mask is None else mask.contiguous().view(torch.uint8)


def strides(*tables: Tensor | None) -> list[int]:
    """The strides of tables ``[N, C]``."""
    return [n for t in tables for n in ((0, 0) if t is None else t.stride())]


def blocks_of(tile: Tiling) -> tuple[int, int, int]:
    """The block sizes in the order in which the kernels over pools take them."""
    return tile.block_pools, tile.block_rows, tile.block_length


def activation_name(activation: Activation | None) -> str:
    """The activation's name in the kernels."""
    return "" if activation is None else activation.name


def options(x: Tensor, tile: Tiling, activation: Activation | None) -> dict[str, Any]:
    """The constants for which the kernels over planes are compiled."""
    return {
        "BLOCK_PLANES": tile.block_pools,
        "BLOCK_LENGTH": tile.block_length,
        "ACTIVATION": activation_name(activation),
        "WIDE": wide(x.dtype),
        "num_warps": tile.warps,
    }
