"""The normalizer with the shortest training step, if the difference is more than noise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from .cells import Row, spoken
from .judging import paired_runs
from .spread import Chance


def shortest_step(rows: Sequence[Row], norms: Sequence[str], batch_size: int) -> str | None:
    """A sentence on the normalizer of `norms` with the shortest step; None if noise explains the difference.

    The step times of one seed are measured in turns (see `timing`) and compared seed by seed, as accuracies are: on a
    logarithmic scale, so that a difference is a ratio and effects of the machine on all of them cancel.
    """
    sizes = sorted({row["batch_size"] for row in rows})
    timed = [paired_runs(rows, size, lambda row: row["step_ms"]) for size in sizes]
    timed = [replace(block, values=np.log(block.values)) for block in timed]
    block, chance = timed[sizes.index(batch_size)], Chance(timed)
    order = sorted((norm for norm in norms if norm in block.norms), key=block.mean) if block.freedom else []
    if len(order) < 2:
        return None
    quickest, second = order[:2]
    longer = {norm: block.mean(norm) - block.mean(quickest) for norm in order[1:]}
    known = {norm: chance.needed(block, quickest, norm) for norm in longer}
    needed = {norm: math.inf if need is None else need for norm, need in known.items()}
    if any(longer[norm] <= needed[norm] for norm in longer):
        return None
    least, most = (100 * (1 - math.exp(-longer[second] + sign * needed[second])) for sign in (1, -1))
    share = f"{least:.0f}" if f"{least:.0f}" == f"{most:.0f}" else f"{least:.0f} to {most:.0f}"
    return (
        f"Of these, {spoken(quickest)} has the shortest step at batch size {batch_size}: "
        f"{math.exp(block.mean(quickest)):.2f} ms, {share} % less than {spoken(second)}, the next."
    )
