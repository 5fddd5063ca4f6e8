"""The report of adaptive gradient clipping: which units were clipped, and how often."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

WIDTH = 80


@dataclass
class ClipReport:
    """The units that `adaptive_clip_grad_` clipped in one step, or `AdaptiveGradientClipping` in many.

    ``counts[name]`` is an int32 tensor ``[units]`` on the parameter's device: the number of steps in which each unit
    was clipped, out of the ``steps[name]`` in which the parameter had a gradient. ``excluded`` names the weights that
    are not clipped. ``print`` shows the rates, highest first.
    """

    counts: dict[str, Tensor] = field(default_factory=dict)
    steps: dict[str, int] = field(default_factory=dict)
    excluded: tuple[str, ...] = ()

    @property
    def rates(self) -> dict[str, float]:
        """The share of (step, unit) pairs that were clipped, for each parameter."""
        return {name: int(n.sum()) / (max(n.numel(), 1) * self.steps[name]) for name, n in self.counts.items()}

    @property
    def rate(self) -> float:
        """The share of (step, unit) pairs that were clipped, over all parameters; 0 where none had a gradient."""
        possible = sum(n.numel() * self.steps[name] for name, n in self.counts.items())
        return sum(int(n.sum()) for n in self.counts.values()) / possible if possible else 0.0

    def note(self, names: Sequence[str], clipped: Sequence[Tensor]) -> None:
        """Add one step of these parameters."""
        seen = [(self.counts[n], new) for n, new in zip(names, clipped, strict=True) if n in self.counts]
        if seen:
            torch._foreach_add_(*map(list, zip(*seen, strict=True)))  # pyright: ignore[reportPrivateImportUsage]
        for name, new in zip(names, clipped, strict=True):
            self.counts.setdefault(name, new)
            self.steps[name] = self.steps.get(name, 0) + 1

    def add(self, step: "ClipReport") -> None:
        """Add the counts of another report; its tensors may become part of this one."""
        self.note(list(step.counts), list(step.counts.values()))
        self.excluded = step.excluded

    def __str__(self) -> str:
        head = f"Adaptive gradient clipping: {self.rate:.1%} of the units clipped"
        steps = max(self.steps.values(), default=0)
        lines = [f"{head} over {steps} step{'' if steps == 1 else 's'}."]
        rates = sorted(self.rates.items(), key=lambda item: -item[1])
        room = min(max((len(name) for name, _ in rates), default=0), WIDTH - 22)
        for name, rate in rates:
            lines.append(f"  {_shortened(name, room):<{room}} {rate:6.1%} of {self.counts[name].numel()}")
        if self.excluded:
            lines.append(f"  not clipped: {', '.join(self.excluded)}")
        return "\n".join(lines)


def _shortened(name: str, room: int) -> str:
    return name if len(name) <= room else f"…{name[len(name) - room + 1 :]}"
