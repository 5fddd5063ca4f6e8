"""The number of times a normalizer reads and writes the tensor that it normalizes."""

from __future__ import annotations

from ..bench.bytes_model import PASSES, kind
from ..layers import Normalizer

#: One shape too large for any cache, and one for which a sample's statistics fit into a cache.
_LARGE, _SMALL = (8, 256, 256, 256), (8, 64, 32, 32)


def cost(row: Normalizer | None, remembered: bool) -> str:
    """The passes in words, forward and backward, by the byte model of `normwise bench`.

    >>> from normwise.layers import NORMALIZERS
    >>> cost(NORMALIZERS["batch"], remembered=True)
    'forward reads x 1 time and writes 1, backward reads 2 times and writes 1'
    """
    if row is not None and row.name == "none":
        return "nothing is read or written"
    if row is None:
        return f"{_said(PASSES['batch'])}: measured, then applied"
    if remembered:
        return _said(PASSES["known"])
    large, small = (PASSES[kind(row.name, shape, 4, last=False)] for shape in (_LARGE, _SMALL))
    return _said(large) + ("" if large == small else f"; while a pool stays in a cache, {_said(small)}")


def _said(passes: tuple[int, int]) -> str:
    forward, backward = passes
    return f"forward reads x {_times(forward - 1)} and writes 1, backward reads {_times(backward - 1)} and writes 1"


def _times(count: int) -> str:
    return "1 time" if count == 1 else f"{count} times"
