"""`machine_report`: the checks of the machine, to be printed or read."""

from __future__ import annotations

import json
from dataclasses import dataclass

from .machine import NOTE, OK, PROBLEM, Check, examine

MARKS = {OK: "ok", NOTE: "-", PROBLEM: "!!"}


@dataclass(frozen=True)
class MachineReport:
    """The results of `machine_report`; ``str(report)`` is the output of `normwise doctor`."""

    checks: tuple[Check, ...]

    @property
    def healthy(self) -> bool:
        """Whether there is no problem; notes do not count."""
        return not self.problems

    @property
    def problems(self) -> tuple[Check, ...]:
        return tuple(check for check in self.checks if check.level == PROBLEM)

    @property
    def summary(self) -> str:
        many = len(self.problems)
        return f"{many} problem{'' if many == 1 else 's'}, marked {MARKS[PROBLEM]}." if many else "No problem."

    def __str__(self) -> str:
        lines = [
            f"{MARKS[level]:2}  {name:17}  {found}" + (f" -> {advice}" if advice else "")
            for name, level, found, advice in self.checks
        ]
        return "\n".join([*lines, "", self.summary])

    def to_json(self) -> str:
        return json.dumps({"healthy": self.healthy, "checks": [check._asdict() for check in self.checks]}, indent=2)


def machine_report() -> MachineReport:
    """Check this machine and installation for everything that makes normwise fast.

    Compiles the C++ kernels if that has not happened on this machine (10 to 60 seconds, once). For the problems of a
    model use `doctor`.

    >>> machine_report().checks[0].name
    'normwise'
    """
    return MachineReport(tuple(examine()))
