"""Normalization of rows of any stride: of tokens, and of pixels over their channels."""

import triton
import triton.language as tl


@triton.jit
def rows_of_tile(tile, pools, outer_stride, pool_stride, BLOCK_POOLS: tl.constexpr):
    """Offset, place in the tables, and validity of the rows of one tile."""
    blocks = tl.cdiv(pools, BLOCK_POOLS)
    outer, block = tile // blocks, tile % blocks
    pool = block * BLOCK_POOLS + tl.arange(0, BLOCK_POOLS)
    return outer * outer_stride + pool * pool_stride, outer * pools + pool, pool < pools


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
    """Whole rows in registers."""
    tile = tl.program_id(0).to(tl.int64)
    start, entry, there = rows_of_tile(tile, pools, outer_stride, pool_stride, BLOCK_POOLS)
    s = tl.arange(0, BLOCK_LENGTH).to(tl.int64)
    valid = there[:, None] & (s < length)[None, :]
    offset = start[:, None] + (s * value_stride)[None, :]
    v = tl.load(x + offset, mask=valid, other=0).to(WIDE)
    if CENTER:
        center = tl.sum(v, 1) / length
        v = tl.where(valid, v - center[:, None], 0.0)
        # Once more, for what the rounding of a large mean has left over.
        rest = tl.sum(v, 1) / length
        v = tl.where(valid, v - rest[:, None], 0.0)
        tl.store(mean + entry, center + rest, mask=there)
    factor = tl.rsqrt(tl.sum(v * v, 1) / length + EPS)
    tl.store(rstd + entry, factor, mask=there)
    v *= factor[:, None]
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
    grad_weight,
    grad_bias,
    tiles,
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
    """Whole rows in registers; each program adds up its own part of the parameters' gradients."""
    for_weight = tl.zeros((BLOCK_POOLS, BLOCK_LENGTH), WIDE)
    for_bias = tl.zeros((BLOCK_POOLS, BLOCK_LENGTH), WIDE)
    s = tl.arange(0, BLOCK_LENGTH).to(tl.int64)
    inside = s < length
    for tile in range(tl.program_id(0), tiles, tl.num_programs(0)):
        start, entry, there = rows_of_tile(
            tl.zeros((1,), tl.int64) + tile, pools, outer_stride, pool_stride, BLOCK_POOLS
        )
        valid = there[:, None] & inside[None, :]
        offset = start[:, None] + (s * value_stride)[None, :]
        v = tl.load(x + offset, mask=valid, other=0).to(WIDE)
        g = tl.load(grad_y + offset, mask=valid, other=0).to(WIDE)
        factor = tl.load(rstd + entry, mask=there, other=0)
        if CENTER:
            v = tl.where(valid, v - tl.load(mean + entry, mask=there, other=0)[:, None], 0.0)
            v -= (tl.sum(v, 1) / length)[:, None]
        v = tl.where(valid, v * factor[:, None], 0.0)
        for_weight += g * v
        for_bias += g
        if grad_x is not None:
            if weight is not None:
                g *= tl.load(weight + s, mask=inside, other=0).to(WIDE)[None, :]
            grad = g - v * (tl.sum(g * v, 1) / length)[:, None]
            if CENTER:
                grad -= (tl.sum(g, 1) / length)[:, None]
            tl.store(grad_x + offset, (grad * factor[:, None]).to(grad_x.dtype.element_ty), mask=valid)
    place = tl.program_id(0).to(tl.int64) * length + s
    if grad_weight is not None:
        tl.store(grad_weight + place, tl.sum(for_weight, 0), mask=inside)
    if grad_bias is not None:
        tl.store(grad_bias + place, tl.sum(for_bias, 0), mask=inside)
