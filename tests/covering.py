"""A covering subset of a test's combinations: every two values of different arguments meet in one of them.

A defect shows with one value (bf16), or with two together (bf16 in channels_last); the product of all arguments tries
each pair hundreds of times. conftest.py leaves the rest, of every test, to `make test-all`.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Hashable, Sequence
from itertools import combinations

Row = Sequence[Hashable]


def covering(rows: Sequence[Row]) -> set[int]:
    """The numbers of a few rows in which all pairs of values occur that occur in any of ``rows``; always the same ones.

    >>> rows = [(a, b, c) for a in "xy" for b in "xy" for c in "xy"]
    >>> len(covering(rows))
    4
    """
    pairs = [_pairs(row) for row in rows]
    order = list(range(len(rows)))
    random.Random(0).shuffle(order)  # or else the first values of every argument would meet most often
    missing = set().union(*pairs)
    chosen: set[int] = set()
    # What a row would add only shrinks: one that still leads when it is counted again is the best.
    queue = [(-len(pairs[row]), place, row) for place, row in enumerate(order)]
    heapq.heapify(queue)
    while missing:
        _, place, row = heapq.heappop(queue)
        gain = len(pairs[row] & missing)
        if queue and gain < -queue[0][0]:
            heapq.heappush(queue, (-gain, place, row))
            continue
        chosen.add(row)
        missing -= pairs[row]
    return chosen


def _pairs(row: Row) -> set[Hashable]:
    cells = list(enumerate(row))
    return set(combinations(cells, 2)) if len(cells) > 1 else set(cells)
