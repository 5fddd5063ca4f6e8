"""Standardization of pools that stay on chip: x is read once; and the tables of the backward."""

import triton
import triton.language as tl

from .activations import activate
from .planes import grad_before_activation
from .pools import pool_sum, rows_of


@triton.jit
def channel_value(parameter, pool, row, there, channels, pool_channels, row_channels):
    """A layer's parameter for each row of a tile."""
    channel = (pool * pool_channels + row * row_channels) % channels
    return tl.load(parameter + channel, mask=there, other=0)


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
    """Whole pools: two exact passes over registers, then the result."""
    blocks = tl.cdiv(pools, BLOCK_POOLS)
    outer, block = tl.program_id(0).to(tl.int64) // blocks, tl.program_id(0).to(tl.int64) % blocks
    pool, row, offset = rows_of(block, 0, pool_stride, row_stride, BLOCK_POOLS, BLOCK_ROWS, JOINT)
    s = tl.arange(0, BLOCK_LENGTH)
    there = (pool < pools) & (row < rows)
    valid = there[:, None] & (s < length)[None, :]
    offset = outer * outer_stride + offset[:, None] + (s.to(tl.int64) * value_stride)[None, :]
    v = tl.load(x + offset, mask=valid, other=0).to(WIDE)
    n = rows * length
    center = pool_sum(tl.sum(v, 1), BLOCK_POOLS, BLOCK_ROWS) / n
    v = tl.where(valid, v - center[:, None], 0.0)
    # Once more, for what the rounding of a large mean has left over.
    rest = pool_sum(tl.sum(v, 1), BLOCK_POOLS, BLOCK_ROWS) / n
    v = tl.where(valid, v - rest[:, None], 0.0)
    spread = pool_sum(tl.sum(v * v, 1), BLOCK_POOLS, BLOCK_ROWS) / n
    single = there & (row == 0)
    tl.store(mean + outer * pools + pool, center.to(tl.float64) + rest.to(tl.float64), mask=single)
    tl.store(var + outer * pools + pool, spread.to(tl.float64), mask=single)
    factor = tl.rsqrt(spread + EPS)
    if weight is not None:
        factor *= channel_value(weight, pool, row, there, channels, pool_channels, row_channels).to(WIDE)
    z = v * factor[:, None]
    if bias is not None:
        z += channel_value(bias, pool, row, there, channels, pool_channels, row_channels).to(WIDE)[:, None]
    if residual is not None:
        z += tl.load(residual + offset, mask=valid, other=0).to(WIDE)
    tl.store(y + offset, activate(z, ACTIVATION).to(y.dtype.element_ty), mask=valid)


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
    """Whole pools: both sums and grad_x; the sums of each row, around the rounded mean, where they are asked for."""
    blocks = tl.cdiv(pools, BLOCK_POOLS)
    outer, block = tl.program_id(0).to(tl.int64) // blocks, tl.program_id(0).to(tl.int64) % blocks
    pool, row, offset = rows_of(block, 0, pool_stride, row_stride, BLOCK_POOLS, BLOCK_ROWS, JOINT)
    s = tl.arange(0, BLOCK_LENGTH)
    there = (pool < pools) & (row < rows)
    valid = there[:, None] & (s < length)[None, :]
    offset = outer * outer_stride + offset[:, None] + (s.to(tl.int64) * value_stride)[None, :]
    center = tl.load(mean + outer * pools + pool, mask=there, other=0)
    rounded = center.to(WIDE)
    rest = (rounded.to(tl.float64) - center).to(WIDE)
    rstd = tl.rsqrt(tl.load(var + outer * pools + pool, mask=there, other=1).to(WIDE) + EPS)
    v = tl.where(valid, tl.load(x + offset, mask=valid, other=0).to(WIDE) - rounded[:, None], 0.0)
    factor = rstd
    if weight is not None:
        factor *= channel_value(weight, pool, row, there, channels, pool_channels, row_channels).to(WIDE)
    z = (v + rest[:, None]) * factor[:, None]
    if bias is not None:
        z += channel_value(bias, pool, row, there, channels, pool_channels, row_channels).to(WIDE)[:, None]
    g = tl.load(grad_y + offset, mask=valid, other=0).to(WIDE)
    g = grad_before_activation(g, z, residual, offset, valid, ACTIVATION, WIDE)
    if grad_residual is not None:
        tl.store(grad_residual + offset, g.to(grad_residual.dtype.element_ty), mask=valid)
    row_g, row_gx = tl.sum(g, 1), tl.sum(g * v, 1)
    if sum_g is not None:
        plane = outer * channels + pool * pool_planes + row * row_planes
        tl.store(sum_g + plane, row_g, mask=there)
        tl.store(sum_gx + plane, row_gx, mask=there)
    n = rows * length
    both = pool_sum(factor * row_g, BLOCK_POOLS, BLOCK_ROWS) / n
    along = (pool_sum(factor * row_gx, BLOCK_POOLS, BLOCK_ROWS) / n + rest * both) * rstd * rstd
    grad = g * factor[:, None] - both[:, None] - (v + rest[:, None]) * along[:, None]
    tl.store(grad_x + offset, grad.to(grad_x.dtype.element_ty), mask=valid)


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
    """What flows back through the statistics of one pool, for its planes (outputs of them): slope and offset."""
    pool = tl.program_id(0).to(tl.int64)
    total = tl.zeros((BLOCK,), WIDE)
    total_x = tl.zeros((BLOCK,), WIDE)
    for start in range(0, planes_of_pool * splits, BLOCK):
        k = start + tl.arange(0, BLOCK).to(tl.int64)
        there = k < planes_of_pool * splits
        plane = pool * pool_planes + k % planes_of_pool * row_planes
        place = k // planes_of_pool * planes + plane
        g = tl.load(sum_g + place, mask=there, other=0)
        gx = tl.load(sum_gx + place, mask=there, other=0)
        if weight is not None:
            w = tl.load(weight + plane % channels, mask=there, other=0).to(WIDE)
            g, gx = g * w, gx * w
        total += g
        total_x += gx
    center = tl.load(mean + pool).to(tl.float64)
    rest = (center.to(WIDE).to(tl.float64) - center).to(WIDE)
    rstd = tl.rsqrt(tl.load(var + pool).to(WIDE) + EPS)
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
    """The sums of the planes, over the samples."""
    c = tl.program_id(0).to(tl.int64) * BLOCK_CHANNELS + tl.arange(0, BLOCK_CHANNELS)
    for_weight = tl.zeros((BLOCK_SAMPLES, BLOCK_CHANNELS), WIDE)
    for_bias = tl.zeros((BLOCK_SAMPLES, BLOCK_CHANNELS), WIDE)
    for start in range(0, samples * splits, BLOCK_SAMPLES):
        k = start + tl.arange(0, BLOCK_SAMPLES).to(tl.int64)
        there = (k < samples * splits)[:, None] & (c < channels)[None, :]
        place = k[:, None] * channels + c[None, :]
        pool = (k % samples * pools_of_sample)[:, None] + (c // channels_of_pool)[None, :]
        center = tl.load(mean + pool, mask=there, other=0).to(tl.float64)
        rest = (center.to(WIDE).to(tl.float64) - center).to(WIDE)
        rstd = tl.rsqrt(tl.load(var + pool, mask=there, other=1).to(WIDE) + EPS)
        g = tl.load(sum_g + place, mask=there, other=0)
        for_weight += (tl.load(sum_gx + place, mask=there, other=0) + rest * g) * rstd
        for_bias += g
    if grad_weight is not None:
        tl.store(grad_weight + c, tl.sum(for_weight, 0), mask=c < channels)
    if grad_bias is not None:
        tl.store(grad_bias + c, tl.sum(for_bias, 0), mask=c < channels)
