"""Finds: of what kind they are, and the smallest calls that show them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from .call import Call, to_line
from .judge import Finding

#: What judges calls of one process: which of them is at fault, and how.
Judge = Callable[[Sequence[Call]], "tuple[int, Finding] | None"]
#: Processes that shrinking may take.
ATTEMPTS = 60


class Find(NamedTuple):
    """Calls of which the last is at fault."""

    history: tuple[Call, ...]
    finding: Finding

    @property
    def kind(self) -> tuple[str, ...]:
        """What is taken for one and the same fault: what happened where, from what."""
        call, finding = self.history[-1], self.finding
        where = finding.place or call.subject
        if finding.kind in ("crash", "hangs", "exception", "message", "refused"):
            return finding.kind, where, finding.detail.partition(":")[0]
        fault = ("right",) if call.fault is None else (call.fault.target, call.fault.change, str(call.fault.between))
        return finding.kind, where, *fault

    def __str__(self) -> str:
        place = f" [{self.finding.place}]" if self.finding.place else ""
        return f"{self.finding.kind}{place}: {self.finding.detail}\n  {to_line(self.history)}"


def find_in(history: Sequence[Call], judge: Judge) -> Find | None:
    """What is found in calls of one process, without those that come behind it."""
    found = judge(history)
    return None if found is None else Find(tuple(history[: found[0] + 1]), found[1])


def shrunk(find: Find, judge: Judge) -> Find:
    """A find of the same kind with fewer and simpler calls, one step at a time."""
    left = ATTEMPTS
    steps = _simpler(find.history)
    while left and (history := next(steps, None)) is not None:
        left -= 1
        smaller = find_in(history, judge)
        if smaller is not None and smaller.kind == find.kind:
            find, steps = smaller, _simpler(smaller.history)
    return find


def _simpler(history: tuple[Call, ...]) -> Iterator[tuple[Call, ...]]:
    """The last call alone, all without one, all with one that is simpler."""
    if len(history) > 1:
        yield history[-1:]
        for at in range(len(history) - 1):
            yield history[:at] + history[at + 1 :]
    for at in reversed(range(len(history))):
        for call in _simpler_calls(history[at]):
            yield (*history[:at], call, *history[at + 1 :])


def _simpler_calls(call: Call) -> Iterator[Call]:
    for name, default in Call._field_defaults.items():
        if getattr(call, name) != default:
            yield call._replace(**{name: default})
    for at, size in enumerate(call.shape):
        for smaller in sorted({2, size // 2, size - 1}):
            if 1 < smaller < size:
                yield call._replace(shape=(*call.shape[:at], smaller, *call.shape[at + 1 :]))
