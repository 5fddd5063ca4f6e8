"""Standardization of pools that stay on chip, so that x is read once; and the tables of the backward pass."""

import triton
import triton.language as tl

from .activations import activate
from .planes import grad_before_activation
from .pools import over_rows, pool_sum, rows_of_tile, tile_of_pools
from .tiles import load, outer_and_inner, plus, times


@triton.jit
def whole_pools(shape, strides, blocks: tl.constexpr, JOINT: tl.constexpr):
    """Outer index, pool and row of each row of this program's tile, whether it exists; offsets, and which exist."""
    outer, block = outer_and_inner(tl.program_id(0), shape[0], blocks[0])
    pool, row, there = rows_of_tile(block, 0, shape, blocks)
    _, offset, valid = tile_of_pools(outer, block, 0, 0, shape, strides, blocks, JOINT)
    return outer, pool, row, there, offset, valid


@triton.jit
def rounded_statistics(mean, var, pool, there, EPS: tl.constexpr, WIDE: tl.constexpr):
    """The rounded mean, the error of its rounding, and 1/√(v + ε)."""
    center = load(mean, pool, there, tl.float64)
    rounded = center.to(WIDE)
    spread = tl.load(var + pool, mask=there, other=1).to(WIDE)
    return rounded, (rounded.to(tl.float64) - center).to(WIDE), tl.rsqrt(spread + EPS)


@triton.jit
def by_channel(v, rstd, weight, bias, channel, there):
    """``γ·rstd`` of each row of a tile, and ``γ·rstd·v + β``."""
    factor = times(rstd, weight, channel, there)
    z = v * factor[:, None]
    if bias is not None:
        z += load(bias, channel, there, z.dtype)[:, None]
    return factor, z


@triton.jit
def standardize(
    x,
    residual,
    y,
    weight,
    bias,
    mean,
    var,
    pools,
    rows,
    length,
    outer_stride,
    pool_stride,
    row_stride,
    value_stride,
    channels,
    pool_channels,
    row_channels,
    EPS: tl.constexpr,
    BLOCK_POOLS: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_LENGTH: tl.constexpr,
    JOINT: tl.constexpr,
    ACTIVATION: tl.constexpr,
    WIDE: tl.constexpr,
):
    """Standardize whole pools: two exact passes over registers, then the result."""
    shape, strides = (pools, rows, length), (outer_stride, pool_stride, row_stride, value_stride)
    blocks: tl.constexpr = (BLOCK_POOLS, BLOCK_ROWS, BLOCK_LENGTH)
    outer, pool, row, there, offset, valid = whole_pools(shape, strides, blocks, JOINT)
    v = load(x, offset, valid, WIDE)
    n = rows * length
    center = pool_sum(v, BLOCK_POOLS, BLOCK_ROWS) / n
    v = tl.where(valid, v - center[:, None], 0.0)
    # A second time, to remove what rounding a large mean left over.
    rest = pool_sum(v, BLOCK_POOLS, BLOCK_ROWS) / n
    v = tl.where(valid, v - rest[:, None], 0.0)
    spread = pool_sum(v * v, BLOCK_POOLS, BLOCK_ROWS) / n
    entry, single = outer * pools + pool, there & (row == 0)
    tl.store(mean + entry, center.to(tl.float64) + rest.to(tl.float64), mask=single)
    tl.store(var + entry, spread, mask=single)
    channel = (pool * pool_channels + row * row_channels) % channels
    _, z = by_channel(v, tl.rsqrt(spread + EPS), weight, bias, channel, there)
    tl.store(y + offset, activate(plus(z, residual, offset, valid), ACTIVATION), mask=valid)


@triton.jit
def standardize_backward(
    grad_y,
    x,
    residual,
    grad_x,
    grad_residual,
    sum_g,
    sum_gx,
    weight,
    bias,
    mean,
    var,
    pools,
    rows,
    length,
    outer_stride,
    pool_stride,
    row_stride,
    value_stride,
    channels,
    pool_channels,
    row_channels,
    pool_planes,
    row_planes,
    EPS: tl.constexpr,
    BLOCK_POOLS: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_LENGTH: tl.constexpr,
    JOINT: tl.constexpr,
    ACTIVATION: tl.constexpr,
    WIDE: tl.constexpr,
):
    """For whole pools both sums and grad_x; also the sums of each row, around the rounded mean, where requested."""
    shape, strides = (pools, rows, length), (outer_stride, pool_stride, row_stride, value_stride)
    blocks: tl.constexpr = (BLOCK_POOLS, BLOCK_ROWS, BLOCK_LENGTH)
    outer, pool, row, there, offset, valid = whole_pools(shape, strides, blocks, JOINT)
    center, rest, rstd = rounded_statistics(mean, var, outer * pools + pool, there, EPS, WIDE)
    v = tl.where(valid, load(x, offset, valid, WIDE) - center[:, None], 0.0)
    channel = (pool * pool_channels + row * row_channels) % channels
    factor, z = by_channel(v + rest[:, None], rstd, weight, bias, channel, there)
    g = grad_before_activation(grad_y, z, residual, offset, valid, ACTIVATION)
    if grad_residual is not None:
        tl.store(grad_residual + offset, g, mask=valid)
    row_g, row_gx = tl.sum(g, 1), tl.sum(g * v, 1)
    if sum_g is not None:
        plane = outer * channels + pool * pool_planes + row * row_planes
        tl.store(sum_g + plane, row_g, mask=there)
        tl.store(sum_gx + plane, row_gx, mask=there)
    n = rows * length
    both = over_rows(factor * row_g, BLOCK_POOLS, BLOCK_ROWS) / n
    along = (over_rows(factor * row_gx, BLOCK_POOLS, BLOCK_ROWS) / n + rest * both) * rstd * rstd
    grad = g * factor[:, None] - both[:, None] - (v + rest[:, None]) * along[:, None]
    tl.store(grad_x + offset, grad, mask=valid)


@triton.jit
def through_statistics(
    sum_g,
    sum_gx,
    weight,
    mean,
    var,
    slope,
    offset,
    planes,
    planes_of_pool,
    pool_planes,
    row_planes,
    outputs,
    channels,
    splits,
    n,
    EPS: tl.constexpr,
    BLOCK: tl.constexpr,
    WIDE: tl.constexpr,
):
    """Slope and offset of the gradient through the statistics of one pool, for ``outputs`` of its planes."""
    pool = tl.program_id(0).to(tl.int64)
    total = tl.zeros((BLOCK,), WIDE)
    total_x = tl.zeros((BLOCK,), WIDE)
    for start in range(0, planes_of_pool * splits, BLOCK):
        k = start + tl.arange(0, BLOCK).to(tl.int64)
        there = k < planes_of_pool * splits
        plane = pool * pool_planes + k % planes_of_pool * row_planes
        place = k // planes_of_pool * planes + plane
        total += times(load(sum_g, place, there, WIDE), weight, plane % channels, there)
        total_x += times(load(sum_gx, place, there, WIDE), weight, plane % channels, there)
    _, rest, rstd = rounded_statistics(mean, var, pool, True, EPS, WIDE)
    both = tl.sum(total, 0) * rstd / n
    along = (tl.sum(total_x, 0) * rstd / n + rest * both) * rstd * rstd
    for start in range(0, outputs, BLOCK):
        k = start + tl.arange(0, BLOCK).to(tl.int64)
        tl.store(slope + pool * outputs + k, tl.zeros((BLOCK,), WIDE) - along, mask=k < outputs)
        tl.store(offset + pool * outputs + k, tl.zeros((BLOCK,), WIDE) - both - along * rest, mask=k < outputs)


@triton.jit
def parameter_gradients(
    sum_g,
    sum_gx,
    mean,
    var,
    grad_weight,
    grad_bias,
    samples,
    channels,
    pools_of_sample,
    channels_of_pool,
    splits,
    EPS: tl.constexpr,
    BLOCK_SAMPLES: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
    WIDE: tl.constexpr,
):
    """The parameters' gradients: the sums of the planes, added over the samples."""
    c = tl.program_id(0).to(tl.int64) * BLOCK_CHANNELS + tl.arange(0, BLOCK_CHANNELS)
    for_weight = tl.zeros((BLOCK_SAMPLES, BLOCK_CHANNELS), WIDE)
    for_bias = tl.zeros((BLOCK_SAMPLES, BLOCK_CHANNELS), WIDE)
    for start in range(0, samples * splits, BLOCK_SAMPLES):
        k = start + tl.arange(0, BLOCK_SAMPLES).to(tl.int64)
        there = (k < samples * splits)[:, None] & (c < channels)[None, :]
        place = k[:, None] * channels + c[None, :]
        pool = (k % samples * pools_of_sample)[:, None] + (c // channels_of_pool)[None, :]
        _, rest, rstd = rounded_statistics(mean, var, pool, there, EPS, WIDE)
        g = load(sum_g, place, there, WIDE)
        for_weight += (load(sum_gx, place, there, WIDE) + rest * g) * rstd
        for_bias += g
    if grad_weight is not None:
        tl.store(grad_weight + c, tl.sum(for_weight, 0), mask=c < channels)
    if grad_bias is not None:
        tl.store(grad_bias + c, tl.sum(for_bias, 0), mask=c < channels)
