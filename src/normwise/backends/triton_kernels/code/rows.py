"""Normalization of rows of any stride: tokens, and pixels over their channels."""

import triton
import triton.language as tl

from .activations import activate, slope
from .tiles import by_position, lines, load, plus, values


@triton.jit
def forward(
    x,
    residual,
    y,
    weight,
    bias,
    mean,
    rstd,
    pools,
    length,
    outer_stride,
    pool_stride,
    value_stride,
    EPS: tl.constexpr,
    CENTER: tl.constexpr,
    ACTIVATION: tl.constexpr,
    BLOCK_POOLS: tl.constexpr,
    BLOCK_LENGTH: tl.constexpr,
    WIDE: tl.constexpr,
):
    """Normalize rows that are held in registers as a whole."""
    start, entry, there = lines(tl.program_id(0), pools, outer_stride, pool_stride, BLOCK_POOLS)
    s, offset, valid = values(0, start, there, length, value_stride, BLOCK_LENGTH)
    v = load(x, offset, valid, WIDE)
    if CENTER:
        center = tl.sum(v, 1) / length
        v = tl.where(valid, v - center[:, None], 0.0)
        # A second time, to remove what rounding a large mean left over.
        rest = tl.sum(v, 1) / length
        v = tl.where(valid, v - rest[:, None], 0.0)
        tl.store(mean + entry, center + rest, mask=there)
    factor = tl.rsqrt(tl.sum(v * v, 1) / length + EPS)
    tl.store(rstd + entry, factor, mask=there)
    z = plus(by_position(v * factor[:, None], weight, bias, s, length), residual, offset, valid)
    tl.store(y + offset, activate(z, ACTIVATION), mask=valid)


@triton.jit
def backward(
    grad_y,
    x,
    residual,
    grad_x,
    grad_residual,
    weight,
    bias,
    mean,
    rstd,
    to_mean,
    to_var,
    grad_weight,
    grad_bias,
    tiles,
    pools,
    length,
    outer_stride,
    pool_stride,
    value_stride,
    CENTER: tl.constexpr,
    ACTIVATION: tl.constexpr,
    BLOCK_POOLS: tl.constexpr,
    BLOCK_LENGTH: tl.constexpr,
    WIDE: tl.constexpr,
):
    """The gradients of rows held in registers; each program sums its own part of the parameters' gradients."""
    for_weight = tl.zeros((BLOCK_POOLS, BLOCK_LENGTH), WIDE)
    for_bias = tl.zeros((BLOCK_POOLS, BLOCK_LENGTH), WIDE)
    for tile in range(tl.program_id(0), tiles, tl.num_programs(0)):
        start, entry, there = lines(tile, pools, outer_stride, pool_stride, BLOCK_POOLS)
        s, offset, valid = values(0, start, there, length, value_stride, BLOCK_LENGTH)
        v, g = load(x, offset, valid, WIDE), load(grad_y, offset, valid, WIDE)
        factor = load(rstd, entry, there, WIDE)
        if CENTER:
            v = tl.where(valid, v - load(mean, entry, there, WIDE)[:, None], 0.0)
            v -= (tl.sum(v, 1) / length)[:, None]
        v = tl.where(valid, v * factor[:, None], 0.0)
        if ACTIVATION != "":
            z = plus(by_position(v, weight, bias, s, length), residual, offset, valid)
            g = tl.where(valid, g * slope(z, ACTIVATION), 0.0)
        if grad_residual is not None:
            tl.store(grad_residual + offset, g, mask=valid)
        for_weight += g * v
        for_bias += g
        if grad_x is not None:
            g = by_position(g, weight, None, s, length)
            grad = g - v * (tl.sum(g * v, 1) / length)[:, None]
            if CENTER:
                grad -= (tl.sum(g, 1) / length)[:, None]
            grad *= factor[:, None]
            if to_mean is not None:
                grad += (load(to_mean, entry, there, WIDE) / length)[:, None]
                grad += v * (2 * load(to_var, entry, there, WIDE) / tl.where(there, length * factor, 1.0))[:, None]
            tl.store(grad_x + offset, grad, mask=valid)
    s = tl.arange(0, BLOCK_LENGTH)
    place, inside = tl.program_id(0).to(tl.int64) * length + s, s < length
    if grad_weight is not None:
        tl.store(grad_weight + place, tl.sum(for_weight, 0), mask=inside)
    if grad_bias is not None:
        tl.store(grad_bias + place, tl.sum(for_bias, 0), mask=inside)
