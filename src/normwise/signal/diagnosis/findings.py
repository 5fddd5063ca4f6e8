"""What a diagnosis says."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")
WIDTH = 80
SHOWN = 3


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong: where, what with its number, and what to do.

    severity: ``"error"``, training or evaluation cannot work like this; ``"warning"``, it probably costs accuracy;
        ``"note"``, waste or a matter of taste.
    rule: the name of the rule, such as ``"stale statistics"``.
    module: the module's path.
    value: the number that decided.
    """

    severity: Severity
    rule: str
    module: str
    what: str
    remedy: str
    value: float

    def __str__(self) -> str:
        head = f"{self.severity}: {self.module}: {self.rule}"
        body = textwrap.fill(f"{self.what} {self.remedy}", WIDTH - 4)
        return f"{head}\n{textwrap.indent(body, '    ')}"


class Findings(Sequence[Finding]):
    """The findings of a diagnosis, worst first; empty (and false) where nothing was found.

    >>> print(Findings("Net", []))
    Net: nothing found.
    """

    def __init__(self, model: str, findings: Sequence[Finding], notes: Sequence[str] = ()) -> None:
        self.model, self.notes = model, tuple(notes)
        self._findings = tuple(sorted(findings, key=lambda f: SEVERITIES.index(f.severity)))

    def __len__(self) -> int:
        return len(self._findings)

    def __getitem__(self, index):  # type: ignore[no-untyped-def]
        return self._findings[index]

    def __iter__(self) -> Iterator[Finding]:
        return iter(self._findings)

    @property
    def errors(self) -> tuple[Finding, ...]:
        return tuple(finding for finding in self if finding.severity == "error")

    def of(self, rule: str) -> tuple[Finding, ...]:
        """The findings of one rule."""
        return tuple(finding for finding in self if finding.rule == rule)

    def __str__(self) -> str:
        if not self:
            return "\n".join([f"{self.model}: nothing found.", *self.notes])
        numbers = [(severity, sum(f.severity == severity for f in self)) for severity in SEVERITIES]
        counts = ", ".join(f"{n} {severity}{'s' if n > 1 else ''}" for severity, n in numbers if n)
        return "\n".join([f"{self.model}: {counts}", *self._shown(), *self.notes])

    def _shown(self) -> Iterator[str]:
        """Each finding, of a rule that found much only the first ones."""
        found: Counter[tuple[str, str]] = Counter((f.severity, f.rule) for f in self)
        shown: Counter[tuple[str, str]] = Counter()
        for finding in self:
            key = (finding.severity, finding.rule)
            shown[key] += 1
            if shown[key] <= SHOWN or found[key] == SHOWN + 1:
                yield str(finding)
            elif shown[key] == SHOWN + 1:
                yield f"{finding.severity}: {finding.rule} in {found[key] - SHOWN} more modules"

    def __repr__(self) -> str:
        return f"Findings({self.model!r}, {list(self._findings)!r})"
