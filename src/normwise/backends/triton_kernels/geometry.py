"""How a tensor is divided into pools, tiles and programs. Every decision about sizes is made here.

None depends on the machine or on the batch size, so the same sample gives the same bits in any batch, on any GPU.
The numbers are first choices: nothing was measured on a GPU yet.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

#: The values in the tile of a program that streams, and the number of its tiles, which also bounds the rounding
#: error of the moments: see `code.moments`.
TILE = 4096
TILES_PER_PROGRAM = 8
#: The largest pool that one program keeps on chip, in bytes of the dtype of its arithmetic: forward, and backward,
#: which holds the gradient as well.
ON_CHIP_FORWARD = 128 * 1024
ON_CHIP_BACKWARD = 64 * 1024
#: Programs over rows in the backward pass; each leaves one partial gradient of the parameters.
ROW_PROGRAMS = 256


class Pools(NamedTuple):
    """Values that share statistics: ``outer × count`` pools of ``rows × length`` values, and their strides.

    A row is the part of a pool in one channel of one sample, or several such parts that are contiguous in memory.
    """

    outer: int
    count: int
    rows: int
    length: int
    outer_stride: int
    pool_stride: int
    row_stride: int
    value_stride: int

    @property
    def size(self) -> int:
        return self.rows * self.length

    @property
    def total(self) -> int:
        return self.outer * self.count

    def joined(self) -> Pools:
        """The same pools with one row each, if their rows are contiguous."""
        if self.row_stride != self.length * self.value_stride:
            return self
        return self._replace(rows=1, length=self.size, row_stride=0)


def planes(x: Tensor, last: bool) -> Pools:
    """Each (sample, channel) plane as a pool."""
    n, c, s = sizes(x)
    if last and s > 1:
        return Pools(n, c, 1, s, c * s, 1, 0, c)
    return Pools(1, n * c, 1, s, 0, s, 0, 1)


def groups(x: Tensor, last: bool, number: int) -> Pools:
    """Each sample's groups of channels."""
    n, c, s = sizes(x)
    size = c // number
    if last and s > 1:
        return Pools(n, number, size, s, c * s, size, 1, c)
    return Pools(1, n * number, size, s, 0, size * s, s, 1)


def batch(x: Tensor, last: bool) -> Pools:
    """Each channel over all samples."""
    n, c, s = sizes(x)
    if last or s == 1:
        return Pools(1, c, 1, n * s, 0, 1, 0, c)
    return Pools(1, c, n, s, 0, s, c * s, 1)


def sizes(x: Tensor) -> tuple[int, int, int]:
    """Samples, channels, and positions of ``x[N, C, *space]``, which is not empty."""
    n, c = x.shape[:2]
    return n, c, x.numel() // (n * c)


class Tiling(NamedTuple):
    """The tile of a program, ``block_pools · block_rows × block_length``, and its warps."""

    block_pools: int
    block_rows: int
    block_length: int

    @property
    def values(self) -> int:
        return self.block_pools * self.block_rows * self.block_length

    @property
    def warps(self) -> int:
        return min(max(self.values // 512, 4), 32)

    def blocks(self, pools: Pools) -> int:
        """The number of tiles that all pools need side by side."""
        return pools.outer * ceiling(pools.count, self.block_pools)


def tiling(pools: Pools, whole: bool = False) -> Tiling:
    """The tile for these pools; ``whole``: it holds all of a pool, and further pools if there is room."""
    neighbours = pools.value_stride != 1  # channels_last: neighbours in memory are pools, or rows
    if whole:
        rows, length = power(pools.rows), power(pools.length)
    elif neighbours:
        rows = min(power(pools.rows), 64)
        width = rows * min(power(pools.count), max(64 // rows, 1))
        length = min(power(pools.length), TILE // width)
    else:
        length = min(power(pools.length), TILE // 4)
        rows = min(power(pools.rows), TILE // length)
    # Neighbours are read together, at least 16 of them: with fewer, most of each memory transaction is unused.
    room = max(TILE // (rows * length), 16 // rows if whole and neighbours else 1, 1)
    return Tiling(min(room, power(pools.count)) if neighbours else room, rows, length)


def row_tiling(pools: Pools, dtype: torch.dtype, budget: int) -> tuple[Tiling, bool]:
    """The tile for rows to be normalized, and whether it holds whole rows within ``budget`` bytes."""
    neighbours = pools.value_stride != 1
    length = power(pools.length)
    # Pixels that are neighbours in memory are read together: 16 of them, or 8 where there are many channels.
    least = 8 if neighbours else 1
    if length * least * dtype.itemsize > budget:
        least = 16 if neighbours else 1
        return Tiling(least, 1, TILE // least), False
    width = max(TILE // length, least)
    if neighbours:
        width = min(max(width, 16 if length * 16 * dtype.itemsize <= budget else 8), power(pools.count))
    return Tiling(width, 1, length), True


def joint(pools: Pools, tile: Tiling) -> bool:
    """Whether the rows of all pools of a tile have one common stride."""
    return tile.block_rows == pools.rows and pools.pool_stride == pools.rows * pools.row_stride


def merging(splits: int) -> tuple[int, int]:
    """The numbers of entries and of shares in the tiles by which tables are merged."""
    together = min(power(splits), 256)
    return max(1024 // together, 1), together


def on_chip(pools: Pools, dtype: torch.dtype, budget: int) -> bool:
    """Whether one program can keep a whole pool on chip, together with the neighbours that it reads with it."""
    return tiling(pools, whole=True).values * dtype.itemsize <= budget


def power(n: int) -> int:
    """The smallest power of two that is not below ``n``."""
    return 1 << max(n - 1, 0).bit_length()


def ceiling(a: int, b: int) -> int:
    """``a / b`` rounded up."""
    return -(-a // b)
