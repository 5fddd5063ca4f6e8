"""Normalization of rows that no program can hold, walked through block by block."""

import triton
import triton.language as tl

from .rows import rows_of_tile


@triton.jit
def forward(
    x,
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
    BLOCK_POOLS: tl.constexpr,
    BLOCK_LENGTH: tl.constexpr,
    WIDE: tl.constexpr,
):
    """Rows that no program can hold: the mean, then the sum of squares around it, then the result."""
    tile = tl.program_id(0).to(tl.int64)
    start, entry, there = rows_of_tile(tile, pools, outer_stride, pool_stride, BLOCK_POOLS)
    lane = tl.arange(0, BLOCK_LENGTH).to(tl.int64)
    center = tl.zeros((BLOCK_POOLS,), WIDE)
    rest = tl.zeros((BLOCK_POOLS,), WIDE)
    if CENTER:
        total = tl.zeros((BLOCK_POOLS, BLOCK_LENGTH), WIDE)
        for first in range(0, length, BLOCK_LENGTH):
            s = lane + first
            valid = there[:, None] & (s < length)[None, :]
            total += tl.load(x + start[:, None] + (s * value_stride)[None, :], mask=valid, other=0).to(WIDE)
        center = tl.sum(total, 1) / length
    total = tl.zeros((BLOCK_POOLS, BLOCK_LENGTH), WIDE)
    squares = tl.zeros((BLOCK_POOLS, BLOCK_LENGTH), WIDE)
    for first in range(0, length, BLOCK_LENGTH):
        s = lane + first
        valid = there[:, None] & (s < length)[None, :]
        v = tl.load(x + start[:, None] + (s * value_stride)[None, :], mask=valid, other=0).to(WIDE)
        v = tl.where(valid, v - center[:, None], 0.0)
        total += v
        squares += v * v
    power = tl.sum(squares, 1) / length
    if CENTER:
        rest = tl.sum(total, 1) / length
        power -= rest * rest  # the square of a rounding
        tl.store(mean + entry, center + rest, mask=there)
    factor = tl.rsqrt(power + EPS)
    tl.store(rstd + entry, factor, mask=there)
    for first in range(0, length, BLOCK_LENGTH):
        s = lane + first
        valid = there[:, None] & (s < length)[None, :]
        offset = start[:, None] + (s * value_stride)[None, :]
        v = tl.load(x + offset, mask=valid, other=0).to(WIDE)
        v = (v - center[:, None] - rest[:, None]) * factor[:, None]
        if weight is not None:
            v *= tl.load(weight + s, mask=s < length, other=0).to(WIDE)[None, :]
        if bias is not None:
            v += tl.load(bias + s, mask=s < length, other=0).to(WIDE)[None, :]
        tl.store(y + offset, v.to(y.dtype.element_ty), mask=valid)


@triton.jit
def backward(
    grad_y,
    x,
    grad_x,
    weight,
    mean,
    rstd,
    rests,
    pools,
    length,
    outer_stride,
    pool_stride,
    value_stride,
    CENTER: tl.constexpr,
    BLOCK_POOLS: tl.constexpr,
    BLOCK_LENGTH: tl.constexpr,
    WIDE: tl.constexpr,
):
    """The sums of rows that no program can hold, then grad_x; also what the rounding of each mean has left over."""
    tile = tl.program_id(0).to(tl.int64)
    start, entry, there = rows_of_tile(tile, pools, outer_stride, pool_stride, BLOCK_POOLS)
    lane = tl.arange(0, BLOCK_LENGTH).to(tl.int64)
    factor = tl.load(rstd + entry, mask=there, other=0)
    center = tl.zeros((BLOCK_POOLS,), WIDE)
    if CENTER:
        center = tl.load(mean + entry, mask=there, other=0)
    total = tl.zeros((BLOCK_POOLS, BLOCK_LENGTH), WIDE)
    sum_g = tl.zeros((BLOCK_POOLS, BLOCK_LENGTH), WIDE)
    sum_gx = tl.zeros((BLOCK_POOLS, BLOCK_LENGTH), WIDE)
    for first in range(0, length, BLOCK_LENGTH):
        s = lane + first
        valid = there[:, None] & (s < length)[None, :]
        offset = start[:, None] + (s * value_stride)[None, :]
        v = tl.where(valid, tl.load(x + offset, mask=valid, other=0).to(WIDE) - center[:, None], 0.0)
        g = tl.load(grad_y + offset, mask=valid, other=0).to(WIDE)
        if weight is not None:
            g *= tl.load(weight + s, mask=s < length, other=0).to(WIDE)[None, :]
        total += v
        sum_g += g
        sum_gx += g * v
    rest = tl.zeros((BLOCK_POOLS,), WIDE)
    both = tl.sum(sum_g, 1) / length
    along = tl.sum(sum_gx, 1) / length
    if CENTER:
        rest = tl.sum(total, 1) / length
        along -= rest * both
        tl.store(rests + entry, rest, mask=there)
    along *= factor * factor
    if grad_x is not None:
        for first in range(0, length, BLOCK_LENGTH):
            s = lane + first
            valid = there[:, None] & (s < length)[None, :]
            offset = start[:, None] + (s * value_stride)[None, :]
            v = tl.load(x + offset, mask=valid, other=0).to(WIDE) - center[:, None] - rest[:, None]
            grad = tl.load(grad_y + offset, mask=valid, other=0).to(WIDE)
            if weight is not None:
                grad *= tl.load(weight + s, mask=s < length, other=0).to(WIDE)[None, :]
            grad -= v * along[:, None]
            if CENTER:
                grad -= both[:, None]
            tl.store(grad_x + offset, (grad * factor[:, None]).to(grad_x.dtype.element_ty), mask=valid)


@triton.jit
def parameters(
    grad_y,
    x,
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
    BLOCK_POOLS: tl.constexpr,
    BLOCK_LENGTH: tl.constexpr,
    WIDE: tl.constexpr,
):
    """One share of the parameters' gradients: a block of positions, over a run of rows."""
    steps = tl.cdiv(length, BLOCK_LENGTH)
    share = tl.program_id(0) // steps
    s = (tl.program_id(0) % steps).to(tl.int64) * BLOCK_LENGTH + tl.arange(0, BLOCK_LENGTH)
    for_weight = tl.zeros((BLOCK_POOLS, BLOCK_LENGTH), WIDE)
    for_bias = tl.zeros((BLOCK_POOLS, BLOCK_LENGTH), WIDE)
    first = share * tiles_of_program
    for tile in range(first, tl.minimum(first + tiles_of_program, tiles)):
        start, entry, there = rows_of_tile(
            tl.zeros((1,), tl.int64) + tile, pools, outer_stride, pool_stride, BLOCK_POOLS
        )
        valid = there[:, None] & (s < length)[None, :]
        offset = start[:, None] + (s * value_stride)[None, :]
        v = tl.load(x + offset, mask=valid, other=0).to(WIDE)
        g = tl.load(grad_y + offset, mask=valid, other=0).to(WIDE)
        if CENTER:
            v -= tl.load(mean + entry, mask=there, other=0)[:, None]
            v -= tl.load(rests + entry, mask=there, other=0)[:, None]
        for_weight += g * v * tl.load(rstd + entry, mask=there, other=0)[:, None]
        for_bias += g
    place = share.to(tl.int64) * length + s
    if grad_weight is not None:
        tl.store(grad_weight + place, tl.sum(for_weight, 0), mask=s < length)
    if grad_bias is not None:
        tl.store(grad_bias + place, tl.sum(for_bias, 0), mask=s < length)
