"""The positions of a tile's values, and how they are read and changed.

A line is a set of values at one stride: a plane, a row of a pool, a row of tokens, the channels of a pixel. Every
offset is computed in 64 bits: a tensor may hold more than 2³¹ values.
"""

import triton
import triton.language as tl


@triton.jit
def part_and_block(parts):
    """This program's part of a block of lines, and the block."""
    program = tl.program_id(0).to(tl.int64)
    return program % parts, program // parts


@triton.jit
def outer_and_inner(block, number, BLOCK: tl.constexpr):
    """The outer index of a block, and its index among the blocks of ``number`` lines (or pools)."""
    block, blocks = tl.cast(block, tl.int64), tl.cdiv(number, BLOCK)
    return block // blocks, block % blocks


@triton.jit
def lines(block, number, outer_stride, stride, BLOCK: tl.constexpr):
    """Where each line of a block starts, its entry in the tables, and whether the line exists."""
    outer, inner = outer_and_inner(block, number, BLOCK)
    line = inner * BLOCK + tl.arange(0, BLOCK)
    return outer * outer_stride + line * stride, outer * number + line, line < number


@triton.jit
def values(step, start, there, length, stride, BLOCK: tl.constexpr):
    """The positions of one step along the lines, their offsets in each line, and which of them exist."""
    s = tl.cast(step, tl.int64) * BLOCK + tl.arange(0, BLOCK)
    return s, start[:, None] + (s * stride)[None, :], there[:, None] & (s < length)[None, :]


@triton.jit
def load(x, offset, valid, WIDE: tl.constexpr):
    """Values in the dtype of the arithmetic; 0 at positions that do not exist."""
    return tl.load(x + offset, mask=valid, other=0).to(WIDE)


@triton.jit
def times(t, factor, offset, valid):
    """``t`` times the factor at the offsets, if there is one."""
    if factor is not None:
        t *= load(factor, offset, valid, t.dtype)
    return t


@triton.jit
def plus(t, term, offset, valid):
    """``t`` plus the term at the offsets, if there is one."""
    if term is not None:
        t += load(term, offset, valid, t.dtype)
    return t


@triton.jit
def by_position(t, weight, bias, s, length):
    """``γ·t + β`` with a parameter for each position along the lines, if there are parameters."""
    # Read in their own order and then broadcast: as tiles they would be read value by value.
    if weight is not None:
        t *= load(weight, s, s < length, t.dtype)[None, :]
    if bias is not None:
        t += load(bias, s, s < length, t.dtype)[None, :]
    return t
