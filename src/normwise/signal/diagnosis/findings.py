"""The findings of a diagnosis."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from ...errors import listed as listed

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")
WIDTH = 80
SHOWN = 3


@dataclass(frozen=True)
class Finding:
    """One problem: its place, a description with its number, and a remedy.

    Attributes:
        severity: ``"error"``, training or evaluation cannot work like this; ``"warning"``, it probably costs accuracy;
            ``"note"``, waste or a matter of taste.
        rule: the name of the rule, such as ``"stale statistics"``.
        module: the module's path.
        value: the number on which the finding is based.
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


# Possible consequences of each problem: a cause is listed before its consequences, even if it is less severe.
CONSEQUENCES: dict[str, tuple[str, ...]] = {
    "not finite": ("poisoned statistics", "train-eval gap", "stale statistics"),
    "poisoned statistics": ("train-eval gap", "stale statistics"),
    "one value per": ("dead layer", "vanishing variance", "vanishing gradient", "small batch", "train-eval gap"),
    "high momentum": ("small batch", "stale statistics", "train-eval gap"),
    "no running statistics": ("small batch", "train-eval gap"),
    "dropout before BatchNorm": ("stale statistics", "train-eval gap"),
    "growing variance": ("exploding gradient", "vanishing gradient", "mean shift", "dead layer"),
    "vanishing variance": ("vanishing gradient", "exploding gradient", "mean shift"),
    "dead layer": ("vanishing variance", "vanishing gradient", "mean shift", "train-eval gap"),
    "mixed domains": ("small batch", "stale statistics", "train-eval gap"),
    "stale statistics": ("train-eval gap",),
    "small batch": ("stale statistics", "train-eval gap"),
}


def _ranked(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    """The worst first, but each after its possible causes."""

    def rank(finding: Finding) -> tuple[int, int]:
        mine = [f for f in findings if f is finding or f.rule in _consequences(finding.rule)]
        causes = {f.rule for f in findings if finding.rule in _consequences(f.rule)}
        return min(SEVERITIES.index(f.severity) for f in mine), len(causes)

    return tuple(sorted(findings, key=rank))


def _consequences(rule: str) -> tuple[str, ...]:
    return next((rules for cause, rules in CONSEQUENCES.items() if rule.startswith(cause)), ())


class Findings(Sequence[Finding]):
    """The findings of a diagnosis, worst first and causes before consequences; empty if nothing was found.

    >>> print(Findings("Net", []))
    Net: nothing found.
    """

    def __init__(self, model: str, findings: Sequence[Finding], notes: Iterable[str] = ()) -> None:
        self.model, self.notes = model, tuple(notes)
        self._findings = _ranked(findings)

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
        """Each finding; of a rule with many findings only the first ones."""
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
