"""Sizes that may be symbols: what is asked of them holds for every value, where that can be.

`torch.export` with a dynamic size finds a question like ``(n, c) == (c,)`` answered for one ``n`` only, since tuples
compare their entries before their lengths, and makes `torch.Size.numel` a constant.
"""

from __future__ import annotations

from collections.abc import Sequence


def same(one: tuple[int, ...], other: tuple[int, ...]) -> bool:
    """Whether two shapes are the same.

    >>> same((2, 3), (2, 3)), same((2, 3), (2,))
    (True, False)
    """
    return len(one) == len(other) and one == other


def product(sizes: Sequence[int]) -> int:
    """The number of values of a shape.

    >>> product((2, 3)), product(())
    (6, 1)
    """
    count = 1
    for size in sizes:
        count = count * size
    return count
