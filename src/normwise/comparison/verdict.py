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

# Runs of one normalizer that lie further apart than this do not say what to expect of the next run.
SCATTER = 0.05

RULE = (
    "A lead is clear when it is larger than both the 95 % interval of the difference of the two means (Student's t, "
    "spread pooled over the seeds of the two) and the 95 % interval of one accuracy on this many held-out samples. "
    "With one seed there is no spread, so no lead is clear. A normalizer that the leader does not clearly lead is "
    f"unreliable, not tied, where its own runs lie more than {100 * SCATTER:.0f} points apart, and further than two "
    "accuracies on this many samples do by chance: its interval is wide because its runs disagree."
)


@dataclass(frozen=True)
class Verdict:
    """Who leads at a batch size. `needed` is what the lead over the runner-up had to exceed (None: one seed).

    `tied` are the normalizers, best first and beginning with the leader, that are not clearly behind it and whose
    runs agree; `unreliable` those whose runs do not (see `RULE`), `behind` all others. `clear` where all others are
    behind. The runner-up is the best of the others that are not unreliable, if there is one.
    """

    batch_size: int
    leader: str
    runner_up: str | None
    lead: float | None
    needed: float | None
    tied: tuple[str, ...]
    unreliable: tuple[str, ...]
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
    return max(quantile * pooled * math.sqrt(1 / a.n + 1 / b.n), resolution(a))


def resolution(cell: Cell) -> float:
    """Half the 95 % interval of one accuracy on the held-out samples."""
    # Laplace's estimate keeps the interval of a perfect accuracy above 0.
    rate = (cell.mean * cell.test_samples + 1) / (cell.test_samples + 2)
    return 1.96 * math.sqrt(rate * (1 - rate) / cell.test_samples)


def scatters(cell: Cell) -> bool:
    """Whether the runs lie too far apart to say what to expect of the next one (see `RULE`)."""
    return cell.best - cell.worst > max(SCATTER, math.sqrt(2) * resolution(cell))


def verdict_of(cells: Sequence[Cell]) -> Verdict:
    """The verdict on the cells of one batch size."""
    ranked = sorted(cells, key=lambda cell: cell.mean, reverse=True)
    leader, others = ranked[0], ranked[1:]
    needed = {cell.norm: needed_lead(leader, cell) for cell in others}
    behind = [c for c in others if (need := needed[c.norm]) is not None and leader.mean - c.mean > need]
    unreliable = [cell for cell in others if cell not in behind and scatters(cell)]
    tied = [cell for cell in ranked if cell not in behind and cell not in unreliable]
    runner_up = next((cell for cell in others if cell not in unreliable), None)
    return Verdict(
        batch_size=leader.batch_size,
        leader=leader.norm,
        runner_up=runner_up.norm if runner_up else None,
        lead=leader.mean - runner_up.mean if runner_up else None,
        needed=needed[runner_up.norm] if runner_up else None,
        tied=tuple(cell.norm for cell in tied),
        unreliable=tuple(cell.norm for cell in unreliable),
        behind=tuple(cell.norm for cell in behind),
        clear=bool(others) and len(behind) == len(others),
        sentence=_sentence(leader, runner_up, needed, bool(unreliable)),
    )


def _sentence(leader: Cell, runner_up: Cell | None, needed: dict[str, float | None], some_unreliable: bool) -> str:
    start = f"Batch size {leader.batch_size}: {spoken(leader.norm)} {leader.mean:.1%}"
    if runner_up is None:
        return f"{start}, {'and no other is reliable' if some_unreliable else 'nothing to compare with'}."
    lead, need = leader.mean - runner_up.mean, needed[runner_up.norm]
    second = f"{spoken(runner_up.norm)} {runner_up.mean:.1%}"
    if need is None:
        return f"{start}, {second}; one run each has no spread, so no lead is clear."
    verb = "larger" if lead > need else "not larger"
    outcome = "no clear winner" if lead <= need else "a clear winner" + " among the reliable" * some_unreliable
    return (
        f"{start}, {second}; the lead of {100 * lead:.1f} points is {verb} than the {100 * need:.1f} points that "
        f"chance explains: {outcome}."
    )
