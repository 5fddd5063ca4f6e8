"""A covering subset of a test's combinations: every two values of different arguments meet in one of them.

A defect shows with one value (bf16), or with two together (bf16 in channels_last); the product of all arguments tries
each pair hundreds of times. conftest.py leaves the rest, of every test, to `make test-all`.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Hashable, Sequence
from itertools import combinations

import pytest

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


def leave_out(calls: list, made: bool) -> None:
    """Mark as slow those of pytest's combinations that a covering subset of the fast ones can do without.

    They are more than the others: unless they are to be ``made``, for `-m` to choose among them, they are taken out of
    the list, which never becomes empty.
    """
    fast = [call for call in calls if all(mark.name != "slow" for mark in call.marks)]
    rows = [[factor for value in call.params.values() for factor in _factors(value)] for call in fast]
    kept = {id(fast[number]) for number in covering(rows)}
    for call in calls:
        if id(call) not in kept:
            call.marks.append(pytest.mark.slow.mark)
    if kept and not made:
        calls[:] = [call for call in calls if id(call) in kept]


def _factors(value: object) -> list[str]:
    """What an argument's value is made of, if it says so; values may be of any kind, and equal ones look the same."""
    return [repr(factor) for factor in getattr(value, "factors", (value,))]


def _pairs(row: Row) -> set[Hashable]:
    cells = list(enumerate(row))
    return set(combinations(cells, 2)) if len(cells) > 1 else set(cells)
