"""Normalization of rows: of tokens over their trailing dimensions, and of pixels over their channels."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from normwise.backends.cpu_tensors import like
from normwise.backends.huge_pages import empty_like
from normwise.backends.protocols import RowTables, StandardizationGradients
from normwise.core.activations import Activation
from normwise.core.moments import statistics_dtype

from . import geometry
from .device import code, flat, on_device_of, wide
from .geometry import ROW_PROGRAMS, Pools, ceiling
from .on_planes import activation_name

#: Which gradients are needed: of x, residual, weight and bias.
Needs = tuple[bool, bool, bool, bool]


def rows(
    x: Tensor,
    width: int,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    center: bool,
    keep: bool,
    residual: Tensor | None = None,
    activation: Activation | None = None,
) -> tuple[Tensor, RowTables]:
    """See `Rows.rows`; kept are μ (None without ``center``) and 1/σ in the statistics' dtype."""
    return _forward(x, _of_rows(x, width), weight, bias, eps, center, keep, residual, activation)


def rows_backward(
    grad_y: Tensor,
    x: Tensor,
    width: int,
    weight: Tensor | None,
    bias: Tensor | None,
    tables: RowTables,
    center: bool,
    needs: Needs,
    residual: Tensor | None = None,
    activation: Activation | None = None,
    flow: Tensor | None = None,
) -> StandardizationGradients:
    """See `Rows.rows_backward`."""
    given = _Given(x, _of_rows(x, width), weight, bias, *tables, center, residual, activation)  # type: ignore[arg-type]
    return _backward(grad_y, given, needs, flow)


def columns(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    center: bool,
    keep: bool,
    residual: Tensor | None = None,
    activation: Activation | None = None,
) -> tuple[Tensor, RowTables]:
    """See `Rows.columns`."""
    return _forward(x, _of_columns(x), weight, bias, eps, center, keep, residual, activation)


def columns_backward(
    grad_y: Tensor,
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    tables: RowTables,
    center: bool,
    needs: Needs,
    residual: Tensor | None = None,
    activation: Activation | None = None,
    flow: Tensor | None = None,
) -> StandardizationGradients:
    """See `Rows.columns_backward`."""
    given = _Given(x, _of_columns(x), weight, bias, *tables, center, residual, activation)  # type: ignore[arg-type]
    return _backward(grad_y, given, needs, flow)


def row_statistics(tables: RowTables) -> tuple[Tensor, Tensor]:
    """See `Rows.row_statistics`."""
    mean, rstd = tables
    assert mean is not None
    assert rstd is not None
    return mean, rstd


def _of_rows(x: Tensor, width: int) -> Pools:
    return Pools(1, x.numel() // width, 1, width, 0, width, 0, 1)


def _of_columns(x: Tensor) -> Pools:
    n, c = x.shape[:2]
    s = x.shape[2:].numel()
    return Pools(n, s, 1, c, c * s, 1, 0, s)


def _forward(
    x: Tensor,
    pools: Pools,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    center: bool,
    keep: bool,
    residual: Tensor | None,
    activation: Activation | None,
) -> tuple[Tensor, RowTables]:
    """Normalize rows, whole or block by block, and keep their statistics."""
    dtype = statistics_dtype(x.dtype)
    tile, whole = geometry.row_tiling(pools, dtype, geometry.ON_CHIP_FORWARD)
    kernel = code("rows" if whole else "wide_rows").forward
    y, residual = empty_like(x), like(x, residual)
    rstd = torch.empty(pools.total, dtype=dtype, device=x.device)
    mean = torch.empty_like(rstd) if center else None
    parameters = flat(x, weight, pools.length), flat(x, bias, pools.length)
    with on_device_of(x):
        kernel[(tile.blocks(pools),)](
            *(x, residual, y, *parameters, mean, rstd, *_strides(pools)),
            EPS=eps,
            CENTER=center,
            **_options(x, tile, activation),
        )
    return y, (mean, rstd) if keep else ()


class _Given(NamedTuple):
    """The tensors and settings that the backward pass needs from the forward pass."""

    x: Tensor
    pools: Pools
    weight: Tensor | None
    bias: Tensor | None
    mean: Tensor | None
    rstd: Tensor
    center: bool
    residual: Tensor | None
    activation: Activation | None


def _backward(grad_y: Tensor, given: _Given, needs: Needs, flow: Tensor | None) -> StandardizationGradients:
    """The gradients of normalized rows, whole or block by block."""
    x, pools, dtype = given.x, given.pools, statistics_dtype(given.x.dtype)
    length, parameters = pools.length, (given.weight, given.bias)
    given = given._replace(
        weight=flat(x, given.weight, length), bias=flat(x, given.bias, length), residual=like(x, given.residual)
    )
    grad_x = torch.empty_like(x) if needs[0] else None
    # Without an activation the gradient of the residual is grad_y itself.
    grad_residual = torch.empty_like(x) if needs[1] and given.activation is not None else None
    to_mean, to_var = (None, None) if flow is None else flow.to(dtype).unbind()
    # A quarter of the budget, for x, its gradient and both sums of the parameters.
    tile, whole = geometry.row_tiling(pools, dtype, geometry.ON_CHIP_FORWARD // 4)
    run = _whole_backward if whole else _wide_backward
    sums = run(grad_y, given, tile, (grad_x, grad_residual), (to_mean, to_var), needs[2:])
    for_weight, for_bias = (
        None if parts is None or of is None else parts.sum(0).view(of.shape)  # rows may have several dimensions
        for parts, of in zip(sums, parameters, strict=True)
    )
    return grad_x, grad_y if needs[1] and grad_residual is None else grad_residual, for_weight, for_bias


Pair = tuple[Tensor | None, Tensor | None]


def _whole_backward(
    grad_y: Tensor, given: _Given, tile: geometry.Tiling, grads: Pair, through: Pair, needs: tuple[bool, bool]
) -> list[Tensor | None]:
    """Write the gradients of rows that fit into registers; returns the shares of the parameters' gradients."""
    x, pools, weight, bias, mean, rstd, center, residual, activation = given
    tiles = tile.blocks(pools)
    programs = min(tiles, ROW_PROGRAMS) if any(needs) else tiles
    sums = _sums(given, programs, needs)
    with on_device_of(x):
        code("rows").backward[(programs,)](
            *(grad_y, x, residual, *grads, weight, bias, mean, rstd, *through, *sums, tiles, *_strides(pools)),
            CENTER=center,
            **_options(x, tile, activation),
        )
    return sums


def _wide_backward(
    grad_y: Tensor, given: _Given, tile: geometry.Tiling, grads: Pair, through: Pair, needs: tuple[bool, bool]
) -> list[Tensor | None]:
    """Write the gradients of longer rows; returns the shares of the parameters' gradients."""
    x, pools, weight, bias, mean, rstd, center, residual, activation = given
    rests = torch.empty_like(rstd) if center else None
    tiles = tile.blocks(pools)
    of_program = max(ceiling(tiles, ROW_PROGRAMS), 8)
    shares = ceiling(tiles, of_program)
    sums = _sums(given, shares, needs)
    with on_device_of(x):
        code("wide_rows").backward[(tiles,)](
            *(grad_y, x, residual, *grads, weight, bias, mean, rstd, *through, rests, *_strides(pools)),
            CENTER=center,
            **_options(x, tile, activation),
        )
        if any(needs):
            code("wide_rows").parameters[(shares * ceiling(pools.length, tile.block_length),)](
                *(grad_y, x, residual, weight, bias, mean, rstd, rests, *sums, tiles, of_program, *_strides(pools)),
                CENTER=center,
                **_options(x, tile, activation),
            )
    return sums


def _sums(given: _Given, shares: int, needs: tuple[bool, bool]) -> list[Tensor | None]:
    """Room for the shares of the parameters' gradients."""
    length, rstd = given.pools.length, given.rstd
    return [torch.empty(shares, length, dtype=rstd.dtype, device=rstd.device) if n else None for n in needs]


def _strides(pools: Pools) -> tuple[int, ...]:
    return pools.count, pools.length, pools.outer_stride, pools.pool_stride, pools.value_stride


def _options(x: Tensor, tile: geometry.Tiling, activation: Activation | None) -> dict[str, Any]:
    return {
        "ACTIVATION": activation_name(activation),
        "BLOCK_POOLS": tile.block_pools,
        "BLOCK_LENGTH": tile.block_length,
        "WIDE": wide(x.dtype),
        "num_warps": tile.warps,
    }
