"""Plain standardization: in one kernel where a pool stays on chip, otherwise split over programs."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from normwise.backends.cpu_tensors import dense, like
from normwise.backends.huge_pages import empty_like
from normwise.backends.protocols import Known, StandardizationGradients
from normwise.core.activations import Activation
from normwise.core.moments import Moments, statistics_dtype

from . import geometry, on_planes
from .device import code, flat, on_device_of, wide
from .geometry import ON_CHIP_BACKWARD, ON_CHIP_FORWARD, Pools, ceiling


class _Pooling(NamedTuple):
    """Pools of channels (``groups`` in a sample) or of samples (0), and the places of their parameters and planes."""

    pools: Pools
    groups: int
    pool_channels: int
    row_channels: int
    row_planes: int

    @classmethod
    def of(cls, x: Tensor, last: bool, groups: int) -> _Pooling:
        if groups:
            size = x.shape[1] // groups
            return cls(geometry.groups(x, last, groups), groups, size, 1, 1)
        return cls(geometry.batch(x, last), groups, 1, 0, x.shape[1])

    def fits(self, x: Tensor, budget: int) -> bool:
        return geometry.on_chip(self.pools, statistics_dtype(x.dtype), budget)


class Standardization:
    """See `protocols.Standardization`; the geometry is computed at every call."""

    def __init__(self, groups: int, eps: float, activation: Activation | None) -> None:
        self.groups, self.eps, self.activation = groups, eps, activation

    def forward(
        self,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        residual: Tensor | None,
        known: Known | None,
        keep: bool,
    ) -> tuple[Tensor, Tensor | None]:
        """`standardize`."""
        return standardize(x, self.groups, weight, bias, self.eps, residual, self.activation, known, keep)

    def backward(
        self,
        grad_y: Tensor,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        residual: Tensor | None,
        table: Tensor,
        *,
        known: bool,
        values: bool,
        same: bool,
    ) -> StandardizationGradients:
        """`standardize_backward`."""
        rest = (self.groups, weight, bias, self.eps, residual, self.activation, table)
        return standardize_backward(grad_y, x, *rest, known=known, values=values)


def standardization(
    x: Tensor,
    groups: int,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    residual: Tensor | None,
    activation: Activation | None,
    known: Known | None,
) -> Standardization:
    """See `Fused.standardization`."""
    return Standardization(groups, eps, activation)


def standardize(
    x: Tensor,
    groups: int,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    residual: Tensor | None,
    activation: Activation | None,
    known: Known | None,
    keep: bool,
) -> tuple[Tensor, Tensor | None]:
    """`Standardization.forward`."""
    x, last = dense(x)
    residual, weight, bias = like(x, residual), flat(x, weight, x.shape[1]), flat(x, bias, x.shape[1])
    pooling = _Pooling.of(x, last, groups)
    if known is not None:
        mean, var = (flat(x, t, x.shape[1]) for t in known)
        table = torch.stack([t.to(torch.float64) for t in (mean, var) if t is not None]).unsqueeze(1)
        tables = _coefficients(x, table[0], table[1], None, weight, bias, eps)[0]
        return on_planes.apply(x, *tables, residual, activation), table if keep else None
    shape = (x.shape[0], groups) if groups else (1, x.shape[1])
    if pooling.fits(x, ON_CHIP_FORWARD):
        table = torch.empty(2, *shape, dtype=torch.float64, device=x.device)
        y = _on_chip(x, pooling, weight, bias, eps, residual, activation, table[0], table[1])
    else:
        shares = on_planes.partial_moments(x, pooling.pools.joined())
        tables, table = _coefficients(x, *shares, weight, bias, eps, groups=groups)
        y = on_planes.apply(x, *tables, residual, activation)
    return y, table.view(2, *shape) if keep and table is not None else None


def _on_chip(
    x: Tensor,
    pooling: _Pooling,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    residual: Tensor | None,
    activation: Activation | None,
    mean: Tensor,
    var: Tensor,
) -> Tensor:
    """Standardize pools that stay on chip; mean and variance are written."""
    pools = pooling.pools
    tile = geometry.tiling(pools, whole=True)
    y = empty_like(x)
    with on_device_of(x):
        code("standardize").standardize[(tile.blocks(pools),)](
            *(x, residual, y, weight, bias, mean, var, *pools[1:]),
            *(x.shape[1], pooling.pool_channels, pooling.row_channels, eps),
            *on_planes.blocks_of(tile),
            JOINT=geometry.joint(pools, tile),
            ACTIVATION=on_planes.activation_name(activation),
            WIDE=wide(x.dtype),
            num_warps=tile.warps,
        )
    return y


def _coefficients(
    x: Tensor,
    mean: Tensor,
    var: Tensor,
    count: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    groups: int = 0,
) -> tuple[tuple[Tensor, Tensor, Tensor], Tensor | None]:
    """Mean, scale and shift for `on_planes.apply`, and the pools' moments from their shares; no count: known ones."""
    samples, channels = x.shape[:2]
    shape = (samples, channels) if groups else (1, channels)
    entries = shape[0] * channels
    number = samples * groups if groups else channels
    tables = torch.empty(3, *shape, dtype=statistics_dtype(x.dtype), device=x.device).unbind()
    splits = 1 if count is None else mean.shape[0]
    mean, var = mean.contiguous(), var.contiguous()
    found = None if count is None else torch.empty(2, number, dtype=torch.float64, device=x.device)
    written = (mean, var) if found is None else found.unbind()
    block, together = geometry.merging(splits)
    with on_device_of(x):
        code("pools").coefficients[(ceiling(entries, block),)](
            *(mean, var, count, weight, bias, *tables, *written, entries, number, channels, splits),
            *(eps, block, together, wide(x.dtype)),
        )
    return tuple(t.expand(samples, channels) for t in tables), found  # type: ignore[return-value]


def standardize_backward(
    grad_y: Tensor,
    x: Tensor,
    groups: int,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    residual: Tensor | None,
    activation: Activation | None,
    table: Tensor,
    *,
    known: bool,
    values: bool,
) -> StandardizationGradients:
    """`Standardization.backward`."""
    moments = Moments(table[0], table[1], 1)
    x, last = dense(x)
    grad_y, residual = like(x, grad_y), like(x, residual)
    parameters = flat(x, weight, x.shape[1]), flat(x, bias, x.shape[1])
    pooling = _Pooling.of(x, last, 0 if known else groups)
    rest = (*parameters, eps, residual, activation, moments)
    grads = None, None
    if values and not known and pooling.fits(x, ON_CHIP_BACKWARD):
        *grads, sums = _on_chip_backward(grad_y, x, pooling, *rest)
    else:
        tables = _coefficients_again(x, groups, *parameters, eps, moments)
        sums = None
        if (values and not known) or weight is not None or bias is not None:
            sums = on_planes.partial_sums(grad_y, x, last, *tables, residual, activation)
        if values:
            through = None, None
            if not known and sums is not None:
                through = _through_statistics(x, sums, pooling, parameters[0], eps, moments)
            grads = on_planes.backward_apply(grad_y, x, *tables, residual, activation, *through, None)
    return grads[0], grads[1], *_parameter_gradients(x, sums, groups, weight, bias, eps, moments)


def _on_chip_backward(
    grad_y: Tensor,
    x: Tensor,
    pooling: _Pooling,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    residual: Tensor | None,
    activation: Activation | None,
    moments: Moments,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """The gradients of x and residual, and the sums of the planes if there are parameters."""
    pools = pooling.pools
    tile = geometry.tiling(pools, whole=True)
    grad_x, grad_residual = torch.empty_like(x), None if residual is None else torch.empty_like(residual)
    sums = None
    if weight is not None or bias is not None:
        kept = pools.total * pools.rows
        sums = torch.empty(2, 1, kept, dtype=statistics_dtype(x.dtype), device=x.device)
    with on_device_of(x):
        code("standardize").standardize_backward[(tile.blocks(pools),)](
            *(grad_y, x, residual, grad_x, grad_residual, *((None, None) if sums is None else sums.unbind())),
            *(weight, bias, moments.mean, moments.var, *pools[1:], x.shape[1]),
            *(pooling.pool_channels, pooling.row_channels, pooling.pool_channels, pooling.row_planes, eps),
            *on_planes.blocks_of(tile),
            JOINT=geometry.joint(pools, tile),
            ACTIVATION=on_planes.activation_name(activation),
            WIDE=wide(x.dtype),
            num_warps=tile.warps,
        )
    return grad_x, grad_residual, sums


def _coefficients_again(
    x: Tensor, groups: int, weight: Tensor | None, bias: Tensor | None, eps: float, moments: Moments
) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, scale and shift of every plane from the moments of the forward pass."""
    over_batch = moments.mean.shape[0] == 1 and not groups
    return _coefficients(x, moments.mean, moments.var, None, weight, bias, eps, groups=0 if over_batch else groups)[0]


def _through_statistics(
    x: Tensor, sums: Tensor, pooling: _Pooling, weight: Tensor | None, eps: float, moments: Moments
) -> tuple[Tensor, Tensor]:
    """Slope and offset of the gradient through the statistics, for every plane."""
    samples, channels = x.shape[:2]
    size = channels // pooling.groups if pooling.groups else samples
    shape = (samples, channels) if pooling.groups else (1, channels)
    slope, offset = torch.empty(2, *shape, dtype=sums.dtype, device=x.device).unbind()
    with on_device_of(x):
        code("standardize").through_statistics[(moments.mean.numel(),)](
            *(sums[0], sums[1], weight, moments.mean, moments.var, slope, offset),
            *(samples * channels, size, pooling.pool_channels, pooling.row_planes),
            *(size if pooling.groups else 1, channels, sums.shape[1], pooling.pools.size),
            *(eps, min(geometry.power(size * sums.shape[1]), 1024), wide(x.dtype)),
        )
    return slope.expand(samples, channels), offset.expand(samples, channels)


def _parameter_gradients(
    x: Tensor,
    sums: Tensor | None,
    groups: int,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    moments: Moments,
) -> tuple[Tensor | None, Tensor | None]:
    """The gradients of weight and bias from the sums of the planes; None where there is no parameter."""
    grads = [None if p is None else torch.empty(p.shape, dtype=p.dtype, device=x.device) for p in (weight, bias)]
    if sums is None or (weight is None and bias is None):
        return None, None
    channels = x.shape[1]
    _, splits, kept = sums.shape
    block = min(geometry.power(channels), 32)
    with on_device_of(x):
        code("standardize").parameter_gradients[(ceiling(channels, block),)](
            *(sums[0], sums[1], moments.mean, moments.var, *grads),
            *(kept // channels, channels, groups, channels // groups if groups else 1, splits),
            *(eps, min(geometry.power(kept // channels * splits), 64), block, wide(x.dtype)),
        )
    return grads[0], grads[1]
