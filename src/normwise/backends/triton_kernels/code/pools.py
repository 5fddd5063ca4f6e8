"""Moments of pools, split over programs, and what a standardization makes of them."""

import triton
import triton.language as tl


@triton.jit
def pool_sum(t, BLOCK_POOLS: tl.constexpr, BLOCK_ROWS: tl.constexpr):
    """The sum over the rows of each pool, given back for each row."""
    if BLOCK_ROWS == 1:
        total = t
    else:
        rows = tl.reshape(t, (BLOCK_POOLS, BLOCK_ROWS))
        total = tl.broadcast_to(tl.sum(rows, 1)[:, None], (BLOCK_POOLS, BLOCK_ROWS))
        total = tl.reshape(total, (BLOCK_POOLS * BLOCK_ROWS,))
    return total


@triton.jit
def rows_of(
    block, first_row, pool_stride, row_stride, BLOCK_POOLS: tl.constexpr, BLOCK_ROWS: tl.constexpr, JOINT: tl.constexpr
):
    """Pool, row and offset of each row of a tile. JOINT: the rows of all its pools lie at one stride."""
    r = tl.arange(0, BLOCK_POOLS * BLOCK_ROWS)
    pool = block * BLOCK_POOLS + r // BLOCK_ROWS
    row = first_row + r % BLOCK_ROWS
    joint = (block * (BLOCK_POOLS * BLOCK_ROWS) + r) * row_stride
    return pool, row, joint if JOINT else pool * pool_stride + row * row_stride


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

    The sums are around a pilot, the mean of the share's first tile. Of k tiles the first has a part of 1/k in the
    variance, so (mean - pilot)² is at most k variances: the difference of the sums cancels no more than that, and k is
    a small constant. Under a mask, which may exclude all of a tile, a first run finds the pilots of a second.
    """
    pid = tl.program_id(0).to(tl.int64)
    split, block = pid % splits, pid // splits
    blocks = tl.cdiv(pools, BLOCK_POOLS)
    outer, block = block // blocks, block % blocks
    x += outer * outer_stride
    r = tl.arange(0, BLOCK_POOLS * BLOCK_ROWS)
    pool_here = block * BLOCK_POOLS + r // BLOCK_ROWS
    entry = outer * pools + pool_here
    known = pool_here < pools
    first = (split * steps_of_program).to(tl.int32)
    last = tl.minimum(first + steps_of_program, steps)
    if pilots is not None:
        pilot = tl.load(pilots + entry, mask=known, other=0).to(WIDE)
    elif mask is not None:
        pilot = tl.zeros((BLOCK_POOLS * BLOCK_ROWS,), WIDE)  # what the mask excludes may be anything
    else:
        first_row, first_value = first // steps_of_row * BLOCK_ROWS, first % steps_of_row * BLOCK_LENGTH
        pool, row, offset = rows_of(
            block, first_row.to(tl.int64), pool_stride, row_stride, BLOCK_POOLS, BLOCK_ROWS, JOINT
        )
        s = first_value.to(tl.int64) + tl.arange(0, BLOCK_LENGTH)
        valid = ((pool < pools) & (row < rows))[:, None] & (s < length)[None, :]
        v = tl.load(x + offset[:, None] + (s * value_stride)[None, :], mask=valid, other=0).to(WIDE)
        number = pool_sum(tl.sum(valid.to(WIDE), 1), BLOCK_POOLS, BLOCK_ROWS)
        pilot = pool_sum(tl.sum(v, 1), BLOCK_POOLS, BLOCK_ROWS) / tl.maximum(number, 1)
    total = tl.zeros((BLOCK_POOLS * BLOCK_ROWS, BLOCK_LENGTH), WIDE)
    squares = tl.zeros((BLOCK_POOLS * BLOCK_ROWS, BLOCK_LENGTH), WIDE)
    number = tl.zeros((BLOCK_POOLS * BLOCK_ROWS, BLOCK_LENGTH), tl.int32)
    for step in range(first, last):
        first_row, first_value = step // steps_of_row * BLOCK_ROWS, step % steps_of_row * BLOCK_LENGTH
        pool, row, offset = rows_of(
            block, first_row.to(tl.int64), pool_stride, row_stride, BLOCK_POOLS, BLOCK_ROWS, JOINT
        )
        s = first_value.to(tl.int64) + tl.arange(0, BLOCK_LENGTH)
        valid = ((pool < pools) & (row < rows))[:, None] & (s < length)[None, :]
        if mask is not None:
            sample = (entry // channels)[:, None]
            valid &= tl.load(mask + sample * length + s[None, :], mask=valid, other=0) != 0
        v = tl.load(x + offset[:, None] + (s * value_stride)[None, :], mask=valid, other=0).to(WIDE)
        v = tl.where(valid, v - pilot[:, None], 0.0)
        total += v
        squares += v * v
        number += valid.to(tl.int32)
    n = pool_sum(tl.sum(number, 1), BLOCK_POOLS, BLOCK_ROWS).to(tl.float64)
    divisor = tl.maximum(n, 1.0)
    rest = pool_sum(tl.sum(total, 1), BLOCK_POOLS, BLOCK_ROWS).to(tl.float64) / divisor
    square = pool_sum(tl.sum(squares, 1), BLOCK_POOLS, BLOCK_ROWS).to(tl.float64) / divisor
    spread = square - rest * rest
    spread = tl.where(spread < 0, 0.0, spread)
    place = split * entries + entry
    single = known & (r % BLOCK_ROWS == 0)
    tl.store(mean + place, tl.where(n > 0, pilot.to(tl.float64) + rest, 0.0), mask=single)
    tl.store(var + place, spread, mask=single)
    tl.store(count + place, n, mask=single)


@triton.jit
def merged(mean, var, count, pool, valid, pools, splits, BLOCK_SPLITS: tl.constexpr):
    """The moments of each of the pools from those of its shares (Chan): no term of the variance is negative."""
    # Added up in tiles: Triton's compiler may fail where a loop carries the sum along an axis.
    BLOCK: tl.constexpr = pool.shape[0]
    total = tl.zeros((BLOCK, BLOCK_SPLITS), tl.float64)
    weighted = tl.zeros((BLOCK, BLOCK_SPLITS), tl.float64)
    for start in range(0, splits, BLOCK_SPLITS):
        k = start + tl.arange(0, BLOCK_SPLITS)
        place = k.to(tl.int64)[None, :] * pools + pool[:, None]
        there = valid[:, None] & (k < splits)[None, :]
        n = tl.load(count + place, mask=there, other=0)
        total += n
        weighted += n * tl.load(mean + place, mask=there, other=0)
    number = tl.sum(total, 1)
    divisor = tl.where(number > 0, number, 1.0)
    center = tl.sum(weighted, 1) / divisor
    spread = tl.zeros((BLOCK, BLOCK_SPLITS), tl.float64)
    for start in range(0, splits, BLOCK_SPLITS):
        k = start + tl.arange(0, BLOCK_SPLITS)
        place = k.to(tl.int64)[None, :] * pools + pool[:, None]
        there = valid[:, None] & (k < splits)[None, :]
        n = tl.load(count + place, mask=there, other=0)
        away = tl.load(mean + place, mask=there, other=0) - center[:, None]
        spread += n * (tl.load(var + place, mask=there, other=0) + away * away)
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
    """What `planes.apply` needs to standardize: one entry for each plane, or for each channel.

    Without a count the moments are those of the pools already.
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
        center = tl.load(mean + pool, mask=valid, other=0).to(tl.float64)
        spread = tl.load(var + pool, mask=valid, other=1).to(tl.float64)
    factor = tl.rsqrt(spread + EPS)
    if weight is not None:
        factor *= tl.load(weight + entry % channels, mask=valid, other=0).to(tl.float64)
    # The rounding of the mean is made good in the shift, so that a large mean costs no digits.
    rounded = center.to(WIDE)
    constant = (rounded.to(tl.float64) - center) * factor
    if bias is not None:
        constant += tl.load(bias + entry % channels, mask=valid, other=0).to(tl.float64)
    tl.store(around + entry, rounded, mask=valid)
    tl.store(scale + entry, factor.to(WIDE), mask=valid)
    tl.store(shift + entry, constant.to(WIDE), mask=valid)
