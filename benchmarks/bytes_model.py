"""How many bytes a normalizer must move: the one model behind every "x of floor"."""

from __future__ import annotations

#: Full passes over the activation tensor, (forward, backward), by where the statistics come from.
PASSES = {
    "known": (2, 3),  # 1R+1W; grad_y and x are read, grad_x is written
    "per_sample": (2, 3),  # a group stays in the cache between its statistics and its normalization
    "per_sample_large": (3, 5),  # 2R+1W; 4R+1W
    "batch": (3, 5),
    "batch_in_tiles": (2, 3),  # contiguous: a channel's planes stay in the cache
}
#: What a core's second cache holds.
TILE_BYTES = 1 << 20


def passes(layer: str, shape: tuple[int, ...], element_size: int, *, last: bool) -> tuple[int, int]:
    """The class of a layer over ``shape`` and its passes, forward and backward.

    >>> passes("group", (8, 256, 56, 56), 4, last=False)
    (2, 3)
    """
    samples, channels, space = shape[0], shape[1], 1
    for size in shape[2:]:
        space *= size
    if layer == "batch":
        fits = not last and samples * space * element_size <= TILE_BYTES
        return PASSES["batch_in_tiles" if fits else "batch"]
    pool = {"group": channels // 32, "instance": 1, "layer": channels}[layer] * space
    if last and layer != "layer":
        pool = channels * space
    return PASSES["per_sample" if pool * element_size <= TILE_BYTES else "per_sample_large"]


def floor_bytes(layer: str, shape: tuple[int, ...], element_size: int, *, last: bool) -> int:
    """Bytes of one forward and backward pass at the floor of its class."""
    total = element_size
    for size in shape:
        total *= size
    return total * sum(passes(layer, shape, element_size, last=last))
