"""Normalization of rows that are too long for one program, processed block by block."""

import triton
import triton.language as tl

from .activations import activate, slope
from .tiles import by_position, lines, load, part_and_block, plus, values


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
    """Normalize rows too long for one program: the mean, then the sum of squares around it, then the result."""
    start, entry, there = lines(tl.program_id(0), pools, outer_stride, pool_stride, BLOCK_POOLS)
    center = tl.zeros((BLOCK_POOLS,), WIDE)
    rest = tl.zeros((BLOCK_POOLS,), WIDE)
    if CENTER:
        total = tl.zeros((BLOCK_POOLS, BLOCK_LENGTH), WIDE)
        for step in range(0, tl.cdiv(length, BLOCK_LENGTH)):
            _, offset, valid = values(step, start, there, length, value_stride, BLOCK_LENGTH)
            total += load(x, offset, valid, WIDE)
        center = tl.sum(total, 1) / length
    total = tl.zeros((BLOCK_POOLS, BLOCK_LENGTH), WIDE)
    squares = tl.zeros((BLOCK_POOLS, BLOCK_LENGTH), WIDE)
    for step in range(0, tl.cdiv(length, BLOCK_LENGTH)):
        _, offset, valid = values(step, start, there, length, value_stride, BLOCK_LENGTH)
        v = tl.where(valid, load(x, offset, valid, WIDE) - center[:, None], 0.0)
        total += v
        squares += v * v
    power = tl.sum(squares, 1) / length
    if CENTER:
        rest = tl.sum(total, 1) / length
        power -= rest * rest  # the square of the mean's rounding error
        tl.store(mean + entry, center + rest, mask=there)
    factor = tl.rsqrt(power + EPS)
    tl.store(rstd + entry, factor, mask=there)
    for step in range(0, tl.cdiv(length, BLOCK_LENGTH)):
        s, offset, valid = values(step, start, there, length, value_stride, BLOCK_LENGTH)
        v = (load(x, offset, valid, WIDE) - center[:, None] - rest[:, None]) * factor[:, None]
        z = plus(by_position(v, weight, bias, s, length), residual, offset, valid)
        tl.store(y + offset, activate(z, ACTIVATION), mask=valid)


@triton.jit
def before_activation(grad_y, normalized, residual, weight, bias, s, offset, valid, length, ACTIVATION: tl.constexpr):
    """grad_y · f'(z)."""
    g = load(grad_y, offset, valid, normalized.dtype)
    if ACTIVATION != "":
        z = plus(by_position(normalized, weight, bias, s, length), residual, offset, valid)
        g = tl.where(valid, g * slope(z, ACTIVATION), 0.0)
    return g


@triton.jit
def rest_of_mean(x, start, there, center, length, value_stride, BLOCK_LENGTH: tl.constexpr, WIDE: tl.constexpr):
    """The rounding error of each mean."""
    total = tl.zeros((center.shape[0], BLOCK_LENGTH), WIDE)
    for step in range(0, tl.cdiv(length, BLOCK_LENGTH)):
        _, offset, valid = values(step, start, there, length, value_stride, BLOCK_LENGTH)
        total += tl.where(valid, load(x, offset, valid, WIDE) - center[:, None], 0.0)
    return tl.sum(total, 1) / length


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
    rests,
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
    """The sums of rows too long for one program, then grad_x; also the rounding error of each mean."""
    start, entry, there = lines(tl.program_id(0), pools, outer_stride, pool_stride, BLOCK_POOLS)
    factor = load(rstd, entry, there, WIDE)
    center = tl.zeros((BLOCK_POOLS,), WIDE)
    if CENTER:
        center = load(mean, entry, there, WIDE)
        rest = rest_of_mean(x, start, there, center, length, value_stride, BLOCK_LENGTH, WIDE)
        tl.store(rests + entry, rest, mask=there)
        center, rest = center[:, None], rest[:, None]
    else:
        center, rest = center[:, None], tl.zeros((BLOCK_POOLS, 1), WIDE)
    sum_g = tl.zeros((BLOCK_POOLS, BLOCK_LENGTH), WIDE)
    sum_gx = tl.zeros((BLOCK_POOLS, BLOCK_LENGTH), WIDE)
    for step in range(0, tl.cdiv(length, BLOCK_LENGTH)):
        s, offset, valid = values(step, start, there, length, value_stride, BLOCK_LENGTH)
        v = tl.where(valid, (load(x, offset, valid, WIDE) - center - rest) * factor[:, None], 0.0)
        g = before_activation(grad_y, v, residual, weight, bias, s, offset, valid, length, ACTIVATION)
        if grad_residual is not None:
            tl.store(grad_residual + offset, g, mask=valid)
        g = by_position(g, weight, None, s, length)
        sum_g += g
        sum_gx += g * v
    if grad_x is not None:
        both = tl.sum(sum_g, 1) / length
        along = -tl.sum(sum_gx, 1) / length * factor
        across = tl.zeros((BLOCK_POOLS,), WIDE)
        if CENTER:
            across -= both * factor
        if to_mean is not None:
            across += load(to_mean, entry, there, WIDE) / length
            along += 2 * load(to_var, entry, there, WIDE) / tl.where(there, length * factor, 1.0)
        for step in range(0, tl.cdiv(length, BLOCK_LENGTH)):
            s, offset, valid = values(step, start, there, length, value_stride, BLOCK_LENGTH)
            v = (load(x, offset, valid, WIDE) - center - rest) * factor[:, None]
            g = before_activation(grad_y, v, residual, weight, bias, s, offset, valid, length, ACTIVATION)
            g = by_position(g, weight, None, s, length) * factor[:, None]
            tl.store(grad_x + offset, g + v * along[:, None] + across[:, None], mask=valid)


@triton.jit
def parameters(
    grad_y,
    x,
    residual,
    weight,
    bias,
    mean,
    rstd,
    rests,
    grad_weight,
    grad_bias,
    tiles,
    tiles_of_program,
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
    """One share of the parameters' gradients: a block of positions, over a run of rows."""
    step, share = part_and_block(tl.cdiv(length, BLOCK_LENGTH))
    for_weight = tl.zeros((BLOCK_POOLS, BLOCK_LENGTH), WIDE)
    for_bias = tl.zeros((BLOCK_POOLS, BLOCK_LENGTH), WIDE)
    first = share * tiles_of_program
    for tile in range(first, tl.minimum(first + tiles_of_program, tiles)):
        start, entry, there = lines(tile, pools, outer_stride, pool_stride, BLOCK_POOLS)
        s, offset, valid = values(step, start, there, length, value_stride, BLOCK_LENGTH)
        v = load(x, offset, valid, WIDE)
        if CENTER:
            v -= load(mean, entry, there, WIDE)[:, None]
            v -= load(rests, entry, there, WIDE)[:, None]
        v *= load(rstd, entry, there, WIDE)[:, None]
        g = before_activation(grad_y, v, residual, weight, bias, s, offset, valid, length, ACTIVATION)
        for_weight += g * v
        for_bias += g
    s = step * BLOCK_LENGTH + tl.arange(0, BLOCK_LENGTH)
    place = share * length + s
    if grad_weight is not None:
        tl.store(grad_weight + place, tl.sum(for_weight, 0), mask=s < length)
    if grad_bias is not None:
        tl.store(grad_bias + place, tl.sum(for_bias, 0), mask=s < length)
