"""The search: rounds of Hypothesis until the time is over, every find shrunk and kept as a line."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from hypothesis import HealthCheck, Phase, Verbosity, given, seed, settings
from hypothesis.errors import Flaky

from .call import Call, to_line
from .isolated import judged_apart
from .judge import Finding
from .strategies import histories

ROUND = 25
#: Processes that the shrinking of one find may take.
SHRINKING = 60
_SETTINGS = settings(
    max_examples=ROUND,
    database=None,
    deadline=None,
    derandomize=False,
    phases=(Phase.generate, Phase.shrink),
    report_multiple_bugs=False,
    print_blob=False,
    verbosity=Verbosity.quiet,
    suppress_health_check=list(HealthCheck),
)


class Find(NamedTuple):
    """The smallest calls that were found for it; the last one is at fault."""

    history: tuple[Call, ...]
    finding: Finding

    def __str__(self) -> str:
        place = f" [{self.finding.place}]" if self.finding.place else ""
        return f"{self.finding.kind}{place}: {self.finding.detail}\n  {to_line(self.history)}"


def kind_of(call: Call, finding: Finding) -> tuple[str, ...]:
    """What is taken for one and the same fault: what happened where, from what."""
    fault = ("right",) if call.fault is None else (call.fault.target, call.fault.change, str(call.fault.between))
    where = finding.place or call.subject
    if finding.kind in ("crash", "exception", "message", "refused"):
        return finding.kind, where, finding.detail.partition(":")[0]
    return finding.kind, where, *fault


class _FoundError(Exception):
    """Raised by a round's test, for Hypothesis to shrink."""


class _Round:
    """One seed's examples; after the first find only finds of the same kind count."""

    def __init__(
        self, known: set[tuple[str, ...]], end: float, judge: Callable[[Sequence[Call]], tuple[int, Finding] | None]
    ) -> None:
        self.known, self.end, self.judge = known, end, judge
        self.kind: tuple[str, ...] | None = None
        self.smallest: Find | None = None
        self.tried: dict[tuple[Call, ...], tuple[int, Finding] | None] = {}
        self.left = SHRINKING
        self.calls = 0

    def check(self, history: list[Call]) -> None:
        found = self._found(tuple(history))
        if found is None:
            return
        last, finding = found
        kind = kind_of(history[last], finding)
        if kind in self.known or self.kind not in (None, kind):
            return
        self.kind, self.smallest = kind, Find(tuple(history[: last + 1]), finding)
        raise _FoundError

    def _found(self, history: tuple[Call, ...]) -> tuple[int, Finding] | None:
        if history in self.tried:
            return self.tried[history]
        if self.kind is None and time.monotonic() > self.end:
            return None
        if self.kind is not None:
            self.left -= 1
            if self.left < 0:
                return None
        self.calls += len(history)
        self.tried[history] = self.judge(history)
        return self.tried[history]


def search(
    end: float,
    first: int,
    only: tuple[str, ...] = (),
    judge: Callable[[Sequence[Call]], tuple[int, Finding] | None] = judged_apart,
) -> Iterator[tuple[int, int, Find | None]]:
    """Rounds until ``end``: the seed, the number of calls, and a find of a kind that did not come before."""
    known: set[tuple[str, ...]] = set()
    number = first
    while time.monotonic() < end:
        round_ = _Round(known, end, judge)
        test = seed(number)(_SETTINGS(given(histories(only))(round_.check)))
        try:
            test()
        except (_FoundError, Flaky):
            known.add(round_.kind or ())
        yield number, round_.calls, round_.smallest
        number += 1
