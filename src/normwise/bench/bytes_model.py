"""The bytes that a normalizer must move: the one model behind every "x of floor"."""

from __future__ import annotations

import math

from ..layers.normalizers import NORMALIZERS, default_groups

#: Full passes over the activation tensor, (forward, backward), by the origin of the statistics.
PASSES = {
    "known": (2, 3),  # 1R+1W; grad_y and x are read, grad_x is written
    "per sample": (2, 3),  # a group stays in the cache between its statistics and its normalization
    "per sample, large": (3, 5),  # 2R+1W; 4R+1W
    "batch": (3, 5),
    "batch in tiles": (2, 3),  # contiguous: a channel's planes stay in the cache
}
#: The size of a core's second-level cache, or of a multiprocessor's registers and shared memory.
TILE_BYTES = {"cpu": 1 << 20, "cuda": 1 << 17}
DIRECTIONS = ("forward", "backward", "both")

_KNOWN = ("batch-eval",)


def kind(layer: str, shape: tuple[int, ...], element_size: int, *, last: bool, device: str = "cpu") -> str:
    """The class of a layer over ``shape``, a key of `PASSES`.

    >>> kind("group", (8, 256, 56, 56), 4, last=False), kind("group", (8, 256, 56, 56), 4, last=True)
    ('per sample', 'per sample, large')
    """
    if layer in _KNOWN:
        return "known"
    row = NORMALIZERS[layer]
    if "space" not in row.pool:  # rows, and the channels at a position
        return "per sample"
    samples, channels, space = shape[0], shape[1], math.prod(shape[2:])
    tile = TILE_BYTES[device] // element_size
    if row.uses_batch:
        # A mixture needs the statistics of the batch and of a whole sample before it can write anything.
        alone = "C" not in row.pool
        return "batch in tiles" if alone and not last and samples * space <= tile else "batch"
    # In channels_last the values of a group lie among those of all others: whole samples are read.
    pool = channels if last else _channels_of_a_pool(row.pool, channels)
    return "per sample" if pool * space <= tile else "per sample, large"


def _channels_of_a_pool(pool: str, channels: int) -> int:
    if "C/G" in pool:
        return channels // default_groups(channels)
    return channels if "C" in pool else 1


def floor_bytes(
    layer: str,
    shape: tuple[int, ...],
    element_size: int,
    *,
    last: bool,
    direction: str = "both",
    residual: bool = False,
    device: str = "cpu",
) -> int:
    """Bytes that a forward, a backward, or both must move; an activation is free, a residual is read once.

    >>> floor_bytes("batch-eval", (1, 2, 3, 4), 4, last=False, direction="forward") == 24 * 4 * 2
    True
    """
    forward, backward = PASSES[kind(layer, shape, element_size, last=last, device=device)]
    passes = {"forward": forward + residual, "backward": backward, "both": forward + residual + backward}
    return math.prod(shape) * element_size * passes[direction]
