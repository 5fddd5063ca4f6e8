"""The pools of every row as the papers state them, written anew: no name of the package's tables is read.

A value is (n, c, s): sample, channel, position; rows [*, C] have their tokens as (n, s). ``shares`` maps a value to
what its statistics are of, equal for values that share all of them; ``enters(value, other)`` says whether ``other``
enters one of them. The layers have 6 channels, groups of 2 channels and chunks of 2 samples.
"""

from collections.abc import Callable
from typing import NamedTuple

Value = tuple[int, int, int]


class Stated(NamedTuple):
    shares: Callable[[Value], object]
    enters: Callable[[Value, Value], bool]


def pool(key: Callable[[Value], object]) -> Stated:
    """One mean and variance for all values of a key."""
    return Stated(key, lambda value, other: key(value) == key(other))


BATCH = pool(lambda v: v[1])
LAYER = pool(lambda v: v[0])
INSTANCE = pool(lambda v: (v[0], v[1]))
GROUP = pool(lambda v: (v[0], v[1] // 2))
CHUNKS = pool(lambda v: (v[0] // 2, v[1]))
POSITION = pool(lambda v: (v[0], v[2]))
#: Several pools: the values of one plane share them all.
PLANE_AND_BATCH = Stated(lambda v: (v[0], v[1]), lambda v, o: v[1] == o[1])
PLANE_AND_LAYER = Stated(lambda v: (v[0], v[1]), lambda v, o: v[0] == o[0])
ALL_THREE = Stated(lambda v: (v[0], v[1]), lambda v, o: v[0] == o[0] or v[1] == o[1])
#: IBN-a: the first three channels by planes, the others by the batch.
HALVES = Stated(lambda v: (v[0], v[1]) if v[1] < 3 else v[1], lambda v, o: v[1] == o[1] and (v[1] >= 3 or v[0] == o[0]))
FIRST_HALF = Stated(lambda v: (v[0], v[1]) if v[1] < 3 else None, lambda v, o: v[1] < 3 and v[:2] == o[:2])
NOBODY = Stated(lambda v: None, lambda v, o: False)

TRAINING = {
    "batch": BATCH,
    "group": GROUP,
    "instance": INSTANCE,
    "layer": LAYER,
    "ghost": CHUNKS,
    "sync": BATCH,
    "renorm": BATCH,
    "switchable": ALL_THREE,
    "batch-instance": PLANE_AND_BATCH,
    "ibn": HALVES,
    "filter-response": INSTANCE,
    "global-response": PLANE_AND_LAYER,
    "evo-b0": PLANE_AND_BATCH,
    "evo-s0": GROUP,
    "pixel-layer": POSITION,
    "pixel-rms": POSITION,
    "positional": POSITION,
    "tanh": NOBODY,
    "erf": NOBODY,
    "adaptive-instance": INSTANCE,
    "conditional-instance": INSTANCE,
    "conditional-batch": BATCH,
    "spade": BATCH,
    "token-layer": POSITION,
    "token-rms": POSITION,
    "token-layer-zero": POSITION,
    "token-rms-zero": POSITION,
    "adaptive-layer": POSITION,
    "adaptive-rms": POSITION,
    "gated-rms": POSITION,
    "token-tanh": NOBODY,
    "token-erf": NOBODY,
    "none": NOBODY,
}
#: Where evaluation goes by what is remembered, in whole or for a part of the statistics.
EVALUATION = TRAINING | {
    "batch": NOBODY,
    "ghost": NOBODY,
    "sync": NOBODY,
    "renorm": NOBODY,
    "switchable": PLANE_AND_LAYER,
    "batch-instance": INSTANCE,
    "ibn": FIRST_HALF,
    "evo-b0": INSTANCE,
    "conditional-batch": NOBODY,
    "spade": NOBODY,
}
