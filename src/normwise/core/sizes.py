"""Questions about sizes that may be symbols, put so that one answer holds for every value where possible.

With a dynamic size `torch.export` would answer ``(n, c) == (c,)`` for one ``n`` only, since tuples compare their
entries before their lengths, and it makes `torch.Size.numel` a constant.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


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


def last_sizes(t: Tensor, count: int) -> tuple[int, ...]:
    """The last ``count`` sizes of a tensor, which a layer fixes; constants also in a graph of `torch.jit.trace`.

    >>> last_sizes(torch.zeros(4, 3, 2), 2)
    (3, 2)
    """
    state = torch._C._get_tracing_state()
    if state is None:
        return tuple(t.shape[-count:])
    torch._C._set_tracing_state(None)  # pyright: ignore[reportAttributeAccessIssue]
    try:
        return tuple(t.shape[-count:])
    finally:
        torch._C._set_tracing_state(state)  # pyright: ignore[reportAttributeAccessIssue]
