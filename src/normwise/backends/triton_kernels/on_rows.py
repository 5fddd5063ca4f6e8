"""Normalization of rows: of tokens over their trailing dimensions, and of pixels over their channels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from normwise.backends.huge_pages import empty_like
from normwise.backends.protocols import Gradients, RowTables
from normwise.core.moments import statistics_dtype

from . import geometry
from .device import code, flat, on_device_of, wide
from .geometry import ROW_PROGRAMS, Pools, ceiling


def rows(
    x: Tensor, width: int, weight: Tensor | None, bias: Tensor | None, eps: float, center: bool, keep: bool
) -> tuple[Tensor, RowTables]:
    """See `Rows.rows`; kept are μ (None without ``center``) and 1/σ in the statistics' dtype."""
    return _forward(x, _of_rows(x, width), weight, bias, eps, center, keep)


def rows_backward(
    grad_y: Tensor,
    x: Tensor,
    width: int,
    weight: Tensor | None,
    bias: Tensor | None,
    tables: RowTables,
    center: bool,
    needs: tuple[bool, bool, bool],
) -> Gradients:
    """See `Rows.rows_backward`."""
    return _backward(grad_y, x, _of_rows(x, width), weight, bias, tables, center, needs)


def columns(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, center: bool, keep: bool
) -> tuple[Tensor, RowTables]:
    """See `Rows.columns`."""
    return _forward(x, _of_columns(x), weight, bias, eps, center, keep)


def columns_backward(
    grad_y: Tensor,
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    tables: RowTables,
    center: bool,
    needs: tuple[bool, bool, bool],
) -> Gradients:
    """See `Rows.columns_backward`."""
    return _backward(grad_y, x, _of_columns(x), weight, bias, tables, center, needs)


def _of_rows(x: Tensor, width: int) -> Pools:
    return Pools(1, x.numel() // width, 1, width, 0, width, 0, 1)


def _of_columns(x: Tensor) -> Pools:
    n, c = x.shape[:2]
    s = x.shape[2:].numel()
    return Pools(n, s, 1, c, c * s, 1, 0, s)


def _forward(
    x: Tensor, pools: Pools, weight: Tensor | None, bias: Tensor | None, eps: float, center: bool, keep: bool
) -> tuple[Tensor, RowTables]:
    kind = statistics_dtype(x.dtype)
    tile, whole = geometry.row_tiling(pools, kind, geometry.ON_CHIP_FORWARD)
    kernel = code("rows" if whole else "wide_rows").forward
    y = empty_like(x)
    rstd = torch.empty(pools.total, dtype=kind, device=x.device)
    mean = torch.empty_like(rstd) if center else None
    with on_device_of(x):
        kernel[(tile.blocks(pools),)](
            *(x, y, flat(x, weight, pools.length), flat(x, bias, pools.length), mean, rstd, *_strides(pools)),
            EPS=eps,
            CENTER=center,
            **_options(x, tile),
        )
    return y, (mean, rstd) if keep else ()


def _backward(
    grad_y: Tensor,
    x: Tensor,
    pools: Pools,
    weight: Tensor | None,
    bias: Tensor | None,
    tables: RowTables,
    center: bool,
    needs: tuple[bool, bool, bool],
) -> Gradients:
    grad_x, *sums = _gradients_and_sums(grad_y, x, pools, weight, *tables, center, needs)  # type: ignore[arg-type]
    of_parameters = (
        None if total is None or p is None else total.view(p.shape).to(p.dtype)
        for p, total in zip((weight, bias), sums, strict=True)
    )
    return grad_x, *of_parameters  # type: ignore[return-value]


def _gradients_and_sums(
    grad_y: Tensor,
    x: Tensor,
    pools: Pools,
    weight: Tensor | None,
    mean: Tensor | None,
    rstd: Tensor,
    center: bool,
    needs: tuple[bool, bool, bool],
) -> Gradients:
    kind = statistics_dtype(x.dtype)
    # One fourth: x, its gradient and both sums of the parameters.
    tile, whole = geometry.row_tiling(pools, kind, geometry.ON_CHIP_FORWARD // 4)
    if not whole:
        return _wide_backward(grad_y, x, pools, tile, weight, mean, rstd, center, needs)
    grad_x = torch.empty_like(x) if needs[0] else None
    tiles = tile.blocks(pools)
    programs = min(tiles, ROW_PROGRAMS) if needs[1] or needs[2] else tiles
    sums = [torch.empty(programs, pools.length, dtype=kind, device=x.device) if n else None for n in needs[1:]]
    with on_device_of(x):
        code("rows").backward[(programs,)](
            *(grad_y, x, grad_x, flat(x, weight, pools.length), mean, rstd, *sums, tiles, *_strides(pools)),
            CENTER=center,
            **_options(x, tile),
        )
    for_weight, for_bias = (None if parts is None else parts.sum(0) for parts in sums)
    return grad_x, for_weight, for_bias


def _wide_backward(
    grad_y: Tensor,
    x: Tensor,
    pools: Pools,
    tile: geometry.Tiling,
    weight: Tensor | None,
    mean: Tensor | None,
    rstd: Tensor,
    center: bool,
    needs: tuple[bool, bool, bool],
) -> Gradients:
    grad_x = torch.empty_like(x) if needs[0] else None
    rests = torch.empty_like(rstd) if center else None
    tiles = tile.blocks(pools)
    of_program = max(ceiling(tiles, ROW_PROGRAMS), 8)
    shares = ceiling(tiles, of_program)
    sums = [torch.empty(shares, pools.length, dtype=rstd.dtype, device=x.device) if n else None for n in needs[1:]]
    with on_device_of(x):
        code("wide_rows").backward[(tiles,)](
            *(grad_y, x, grad_x, flat(x, weight, pools.length), mean, rstd, rests, *_strides(pools)),
            CENTER=center,
            **_options(x, tile),
        )
        if needs[1] or needs[2]:
            code("wide_rows").parameters[(shares * ceiling(pools.length, tile.block_length),)](
                *(grad_y, x, mean, rstd, rests, *sums, tiles, of_program, *_strides(pools)),
                CENTER=center,
                **_options(x, tile),
            )
    for_weight, for_bias = (None if parts is None else parts.sum(0) for parts in sums)
    return grad_x, for_weight, for_bias


def _strides(pools: Pools) -> tuple[int, ...]:
    return pools.count, pools.length, pools.outer_stride, pools.pool_stride, pools.value_stride


def _options(x: Tensor, tile: geometry.Tiling) -> dict[str, Any]:
    return {
        "BLOCK_POOLS": tile.block_pools,
        "BLOCK_LENGTH": tile.block_length,
        "WIDE": wide(x.dtype),
        "num_warps": tile.warps,
    }
