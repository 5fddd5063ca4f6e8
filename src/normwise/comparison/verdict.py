"""Who leads at a batch size, and whether the lead is more than chance."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from .cells import Cell, spoken

# Two-sided 95 % quantiles of Student's t for 1 to 30 degrees of freedom; beyond them 2.04 is on the safe side.
T_95 = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086),
    *(2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042),
)

RULE = (
    "A lead is clear when it is larger than both the 95 % interval of the difference of the two means (Student's t, "
    "spread pooled over the seeds of the two) and the 95 % interval of one accuracy on this many held-out samples. "
    "With one seed there is no spread, so no lead is clear."
)


@dataclass(frozen=True)
class Verdict:
    """Who leads at a batch size. `needed` is what the lead over the runner-up had to exceed (None: one seed).

    `tied` are the normalizers, best first and beginning with the leader, that are not clearly behind it;
    `behind` all others. `clear` where only the leader is in `tied` and there are others.
    """

    batch_size: int
    leader: str
    runner_up: str | None
    lead: float | None
    needed: float | None
    tied: tuple[str, ...]
    behind: tuple[str, ...]
    clear: bool
    sentence: str


def needed_lead(a: Cell, b: Cell) -> float | None:
    """What the difference of two mean accuracies must exceed to be clear (see `RULE`); None for a single run."""
    freedom = a.n + b.n - 2
    if a.std is None or b.std is None:
        return None
    pooled = math.sqrt(((a.n - 1) * a.std**2 + (b.n - 1) * b.std**2) / freedom)
    quantile = T_95[freedom - 1] if freedom <= len(T_95) else T_95[-1]
    # Laplace's estimate keeps the interval of a perfect accuracy above 0.
    rate = (a.mean * a.test_samples + 1) / (a.test_samples + 2)
    resolution = 1.96 * math.sqrt(rate * (1 - rate) / a.test_samples)
    return max(quantile * pooled * math.sqrt(1 / a.n + 1 / b.n), resolution)


def verdict_of(cells: Sequence[Cell]) -> Verdict:
    """The verdict on the cells of one batch size."""
    ranked = sorted(cells, key=lambda cell: cell.mean, reverse=True)
    leader, others = ranked[0], ranked[1:]
    needed = {cell.norm: needed_lead(leader, cell) for cell in others}
    behind = [c for c in others if (need := needed[c.norm]) is not None and leader.mean - c.mean > need]
    tied = [cell for cell in ranked if cell not in behind]
    runner_up = others[0] if others else None
    clear = bool(others) and len(tied) == 1
    return Verdict(
        batch_size=leader.batch_size,
        leader=leader.norm,
        runner_up=runner_up.norm if runner_up else None,
        lead=leader.mean - runner_up.mean if runner_up else None,
        needed=needed[runner_up.norm] if runner_up else None,
        tied=tuple(cell.norm for cell in tied),
        behind=tuple(cell.norm for cell in behind),
        clear=clear,
        sentence=_sentence(leader, runner_up, needed, clear),
    )


def _sentence(leader: Cell, runner_up: Cell | None, needed: dict[str, float | None], clear: bool) -> str:
    start = f"Batch size {leader.batch_size}: {spoken(leader.norm)} {leader.mean:.1%}"
    if runner_up is None:
        return f"{start}, nothing to compare with."
    lead, need = leader.mean - runner_up.mean, needed[runner_up.norm]
    second = f"{spoken(runner_up.norm)} {runner_up.mean:.1%}"
    if need is None:
        return f"{start}, {second}; one run each has no spread, so no lead is clear."
    verb = "larger" if lead > need else "not larger"
    outcome = "a clear winner" if clear else "no clear winner"
    return (
        f"{start}, {second}; the lead of {100 * lead:.1f} points is {verb} than the {100 * need:.1f} points that "
        f"chance explains: {outcome}."
    )
