"""Moments of pools, split over programs, and the coefficients of their standardization."""

import triton
import triton.language as tl

from .tiles import load, outer_and_inner, part_and_block, plus, times, values


@triton.jit
def over_rows(t, BLOCK_POOLS: tl.constexpr, BLOCK_ROWS: tl.constexpr):
    """The sum over the rows of each pool, repeated for each row."""
    if BLOCK_ROWS == 1:
        total = t
    else:
        rows = tl.reshape(t, (BLOCK_POOLS, BLOCK_ROWS))
        total = tl.broadcast_to(tl.sum(rows, 1)[:, None], (BLOCK_POOLS, BLOCK_ROWS))
        total = tl.reshape(total, (BLOCK_POOLS * BLOCK_ROWS,))
    return total


@triton.jit
def pool_sum(t, BLOCK_POOLS: tl.constexpr, BLOCK_ROWS: tl.constexpr):
    """The sum over a tile's values of each pool, repeated for each row."""
    return over_rows(tl.sum(t, 1), BLOCK_POOLS, BLOCK_ROWS)


@triton.jit
def rows_of_tile(block, step, shape, blocks: tl.constexpr):
    """Pool and row of each row of a tile, and whether it exists. ``shape``: number, rows and length of the pools."""
    r = tl.arange(0, blocks[0] * blocks[1])
    pool = block * blocks[0] + r // blocks[1]
    row = tl.cast(step, tl.int64) * blocks[1] + r % blocks[1]
    return pool, row, (pool < shape[0]) & (row < shape[1])


@triton.jit
def tile_of_pools(outer, block, row_step, step, shape, strides, blocks: tl.constexpr, JOINT: tl.constexpr):
    """The positions of a tile, their offsets, and which of them exist. ``strides``: the outer one first.

    JOINT: the rows of all pools of a tile have one common stride.
    """
    pool, row, there = rows_of_tile(block, row_step, shape, blocks)
    joint = (block * (blocks[0] * blocks[1]) + tl.arange(0, blocks[0] * blocks[1])) * strides[2]
    start = outer * strides[0] + (joint if JOINT else pool * strides[1] + row * strides[2])
    return values(step, start, there, shape[2], strides[3], blocks[2])


@triton.jit
def moments(
    x,
    mask,
    pilots,
    mean,
    var,
    count,
    entries,
    pools,
    rows,
    length,
    outer_stride,
    pool_stride,
    row_stride,
    value_stride,
    channels,
    splits,
    steps,
    steps_of_row,
    steps_of_program,
    BLOCK_POOLS: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_LENGTH: tl.constexpr,
    JOINT: tl.constexpr,
    WIDE: tl.constexpr,
):
    """Mean, biased variance and count of one share of each pool.

    The sums are around a pilot, the mean of the share's first tile. The first of k tiles contributes 1/k of the
    variance, so (mean - pilot)² is at most k variances: the difference of the sums cancels no more than that, and k is
    a small constant. Under a mask, which may exclude a whole tile, a first run finds the pilots of a second.
    """
    split, block = part_and_block(splits)
    outer, block = outer_and_inner(block, pools, BLOCK_POOLS)
    shape, strides = (pools, rows, length), (outer_stride, pool_stride, row_stride, value_stride)
    blocks: tl.constexpr = (BLOCK_POOLS, BLOCK_ROWS, BLOCK_LENGTH)
    first = (split * steps_of_program).to(tl.int32)
    pool, row, _ = rows_of_tile(block, 0, shape, blocks)
    entry, known = outer * pools + pool, pool < pools
    if pilots is not None:
        pilot = load(pilots, entry, known, WIDE)
    elif mask is not None:
        pilot = tl.zeros((BLOCK_POOLS * BLOCK_ROWS,), WIDE)  # masked values may be anything, so they give no pilot
    else:
        _, place, there = tile_of_pools(
            outer, block, first // steps_of_row, first % steps_of_row, shape, strides, blocks, JOINT
        )
        n = pool_sum(there.to(WIDE), BLOCK_POOLS, BLOCK_ROWS)
        pilot = pool_sum(load(x, place, there, WIDE), BLOCK_POOLS, BLOCK_ROWS) / tl.maximum(n, 1)
    total = tl.zeros((BLOCK_POOLS * BLOCK_ROWS, BLOCK_LENGTH), WIDE)
    squares = tl.zeros((BLOCK_POOLS * BLOCK_ROWS, BLOCK_LENGTH), WIDE)
    number = tl.zeros((BLOCK_POOLS * BLOCK_ROWS, BLOCK_LENGTH), tl.int32)
    for k in range(first, tl.minimum(first + steps_of_program, steps)):
        row_step, step = k // steps_of_row, k % steps_of_row
        s, offset, valid = tile_of_pools(outer, block, row_step, step, shape, strides, blocks, JOINT)
        if mask is not None:
            valid &= tl.load(mask + (entry // channels * length)[:, None] + s[None, :], mask=valid, other=0) != 0
        v = tl.where(valid, load(x, offset, valid, WIDE) - pilot[:, None], 0.0)
        total += v
        squares += v * v
        number += valid.to(tl.int32)
    n = pool_sum(number, BLOCK_POOLS, BLOCK_ROWS).to(tl.float64)
    rest = pool_sum(total, BLOCK_POOLS, BLOCK_ROWS).to(tl.float64) / tl.maximum(n, 1.0)
    spread = pool_sum(squares, BLOCK_POOLS, BLOCK_ROWS).to(tl.float64) / tl.maximum(n, 1.0) - rest * rest
    place, single = split * entries + entry, known & (row % BLOCK_ROWS == 0)
    tl.store(mean + place, tl.where(n > 0, pilot.to(tl.float64) + rest, 0.0), mask=single)
    tl.store(var + place, tl.where(spread < 0, 0.0, spread), mask=single)
    tl.store(count + place, n, mask=single)


@triton.jit
def share_of_pools(mean, count, start, pool, valid, pools, splits, BLOCK_SPLITS: tl.constexpr):
    """A run of the shares of each pool: their positions, which of them exist, their counts and means."""
    k = start + tl.arange(0, BLOCK_SPLITS)
    place = k.to(tl.int64)[None, :] * pools + pool[:, None]
    there = valid[:, None] & (k < splits)[None, :]
    return place, there, load(count, place, there, tl.float64), load(mean, place, there, tl.float64)


@triton.jit
def merged(mean, var, count, pool, valid, pools, splits, BLOCK_SPLITS: tl.constexpr):
    """The moments of each of the pools from those of its shares (Chan): no term of the variance is negative."""
    # Summed in tiles: Triton's compiler may fail where a loop carries the sum along an axis.
    BLOCK: tl.constexpr = pool.shape[0]
    total = tl.zeros((BLOCK, BLOCK_SPLITS), tl.float64)
    weighted = tl.zeros((BLOCK, BLOCK_SPLITS), tl.float64)
    for start in range(0, splits, BLOCK_SPLITS):
        _, _, n, mean_of_share = share_of_pools(mean, count, start, pool, valid, pools, splits, BLOCK_SPLITS)
        total += n
        weighted += n * mean_of_share
    number = tl.sum(total, 1)
    divisor = tl.where(number > 0, number, 1.0)
    center = tl.sum(weighted, 1) / divisor
    spread = tl.zeros((BLOCK, BLOCK_SPLITS), tl.float64)
    for start in range(0, splits, BLOCK_SPLITS):
        place, there, n, away = share_of_pools(mean, count, start, pool, valid, pools, splits, BLOCK_SPLITS)
        away -= center[:, None]
        spread += n * (load(var, place, there, tl.float64) + away * away)
    return center, tl.sum(spread, 1) / divisor, number


@triton.jit
def merge(
    mean,
    var,
    count,
    pooled_mean,
    pooled_var,
    pooled_count,
    pools,
    splits,
    BLOCK: tl.constexpr,
    BLOCK_SPLITS: tl.constexpr,
):
    """The moments of all pools from those of their shares."""
    pool = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    valid = pool < pools
    center, spread, total = merged(mean, var, count, pool, valid, pools, splits, BLOCK_SPLITS)
    tl.store(pooled_mean + pool, center, mask=valid)
    tl.store(pooled_var + pool, spread, mask=valid)
    tl.store(pooled_count + pool, total, mask=valid)


@triton.jit
def coefficients(
    mean,
    var,
    count,
    weight,
    bias,
    around,
    scale,
    shift,
    pooled_mean,
    pooled_var,
    entries,
    pools,
    channels,
    splits,
    EPS: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK_SPLITS: tl.constexpr,
    WIDE: tl.constexpr,
):
    """The coefficients for `planes.apply` to standardize, one entry for each plane or for each channel.

    Without a count the moments are already those of the pools.
    """
    entry = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    valid = entry < entries
    pool = entry // (entries // pools)
    if count is not None:
        center, spread, _ = merged(mean, var, count, pool, valid, pools, splits, BLOCK_SPLITS)
        single = valid & (entry % (entries // pools) == 0)
        tl.store(pooled_mean + pool, center, mask=single)
        tl.store(pooled_var + pool, spread, mask=single)
    else:
        center = load(mean, pool, valid, tl.float64)
        spread = tl.load(var + pool, mask=valid, other=1).to(tl.float64)
    factor = times(tl.rsqrt(spread + EPS), weight, entry % channels, valid)
    # The rounding error of the mean is corrected in the shift, so that a large mean costs no digits.
    rounded = center.to(WIDE)
    constant = plus((rounded.to(tl.float64) - center) * factor, bias, entry % channels, valid)
    tl.store(around + entry, rounded, mask=valid)
    tl.store(scale + entry, factor, mask=valid)
    tl.store(shift + entry, constant, mask=valid)
