"""Addresses beyond 2³¹ values: every number is below it, the products are not. No memory is read."""

import pytest
import torch

from .support import DEVICE, REASON, needs_triton

pytestmark = needs_triton

if REASON is None:
    import triton
    import triton.language as tl

    from normwise.backends.triton_kernels.code.pools import tile_of_pools
    from normwise.backends.triton_kernels.code.tiles import lines, part_and_block, values

    @triton.jit
    def offsets_of_lines(out, steps, number, length, outer_stride, stride, value_stride, BLOCK: tl.constexpr):
        step, block = part_and_block(steps)
        start, entry, there = lines(block, number, outer_stride, stride, BLOCK)
        _, offset, valid = values(step, start, there, length, value_stride, BLOCK)
        r = tl.arange(0, BLOCK)
        place = (entry * length)[:, None] + (step * BLOCK + r)[None, :]
        tl.store(out + place, offset, mask=valid)

    @triton.jit
    def offsets_of_pools(
        out,
        pools,
        rows,
        length,
        outer_stride,
        stride,
        row_stride,
        value_stride,
        BLOCK: tl.constexpr,
        JOINT: tl.constexpr,
    ):
        block, outer = part_and_block(tl.cdiv(pools, BLOCK))
        shape, strides = (pools, rows, length), (outer_stride, stride, row_stride, value_stride)
        blocks: tl.constexpr = (BLOCK, 2, 4)
        _, offset, valid = tile_of_pools(outer, block, 0, 0, shape, strides, blocks, JOINT)
        r = tl.arange(0, 2 * BLOCK)
        row = (outer * pools + block * BLOCK + r // 2) * rows + r % 2
        tl.store(out + (row * length)[:, None] + tl.arange(0, 4)[None, :], offset, mask=valid)


HUGE = 2**30 + 7


@pytest.mark.parametrize("strides", [(5 * HUGE, HUGE, 3), (1, 2, HUGE), (HUGE, 3, HUGE)], ids=str)
def test_lines(strides):
    outer, number, length, block = 3, 5, 11, 4
    found = torch.full((outer, number, length), -1, dtype=torch.int64, device=DEVICE)
    steps = triton.cdiv(length, block)
    grid = (outer * triton.cdiv(number, block) * steps,)
    offsets_of_lines[grid](found, steps, number, length, *strides, block)
    assert torch.equal(found.cpu(), every_sum((outer, number, length), strides))


@pytest.mark.parametrize("joint", [False, True])
def test_pools(joint):
    shape = outer, pools, rows, length = 2, 5, 2, 3
    strides = (3 * HUGE, 2 * HUGE, HUGE, HUGE)  # the rows of neighbouring pools lie at one stride
    found = torch.full(shape, -1, dtype=torch.int64, device=DEVICE)
    offsets_of_pools[(outer * triton.cdiv(pools, 4),)](found, pools, rows, length, *strides, 4, joint)
    assert torch.equal(found.cpu(), every_sum(shape, strides))


def every_sum(shape, strides):
    places = torch.cartesian_prod(*(torch.arange(n) for n in shape))
    return (places * torch.tensor(strides)).sum(1).view(shape)
