"""The search: rounds of Hypothesis until the time is over, every find shrunk and kept as a line."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

from hypothesis import HealthCheck, Phase, Verbosity, given, seed, settings

from .call import Call
from .finds import Find, Judge, find_in, shrunk
from .isolated import judged_apart
from .strategies import histories

#: Histories of one seed.
ROUND = 25
_SETTINGS = settings(
    max_examples=ROUND,
    database=None,
    deadline=None,
    derandomize=False,
    phases=(Phase.generate,),
    print_blob=False,
    verbosity=Verbosity.quiet,
    suppress_health_check=list(HealthCheck),
)


class _FoundError(BaseException):
    """Ends a round: Hypothesis, which shrinks by thousands of examples, lets it pass."""


class _Round:
    """One seed's examples until the first find of a kind that is not known."""

    def __init__(self, known: set[tuple[str, ...]], end: float, judge: Judge) -> None:
        self.known, self.end, self.judge = known, end, judge
        self.find: Find | None = None
        self.calls = 0

    def check(self, history: list[Call]) -> None:
        if time.monotonic() > self.end:
            return
        self.calls += len(history)
        found = find_in(history, self.judge)
        if found is not None and found.kind not in self.known:
            self.find = found
            raise _FoundError


def search(
    end: float, first: int, only: tuple[str, ...] = (), judge: Judge = judged_apart
) -> Iterator[tuple[int, int, Find | None]]:
    """Rounds until ``end``: the seed, the number of calls, and a find of a kind that did not come before, shrunk."""
    known: set[tuple[str, ...]] = set()
    number = first
    while time.monotonic() < end:
        round_ = _Round(known, end, judge)
        test = seed(number)(_SETTINGS(given(histories(only))(round_.check)))
        with contextlib.suppress(_FoundError):
            test()
        find = round_.find
        if find is not None:
            known.add(find.kind)
            find = shrunk(find, judge)
        yield number, round_.calls, find
        number += 1
