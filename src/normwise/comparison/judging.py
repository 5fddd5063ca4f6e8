"""Who leads at each batch size, and whether the lead is more than chance: the rules, and what they rest on."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from .cells import Cell, Row
from .chance import range_quantile
from .spread import Block, Chance, block_of
from .verdict import Verdict

# Runs of one normalizer that lie further apart than this do not say what to expect of the next run.
SCATTER = 0.05

RULE = (
    "Runs are compared seed by seed: those of one seed share the initial weights and the order of the data. A lead is "
    "clear when it is larger than what the ranges of all batch sizes together stay within with 95 % probability where "
    "nothing differs (Tukey's studentized range; the spread is that of the paired differences, the largest of three: "
    "pooled over the whole table, over the batch size, over the two compared), and larger than the 95 % interval of "
    "one accuracy on this many held-out samples. With one seed there is no spread, so no lead is clear. A normalizer "
    f"is unreliable, and neither leads nor ties, where its own runs lie more than {100 * SCATTER:.0f} points apart, "
    "further than two accuracies on this many samples do by chance, and not because a seed was hard for all; it is "
    "clearly behind where its own differences from the leader say so."
)


def verdicts_of(rows: Sequence[Row], cells: Sequence[Cell]) -> tuple[Verdict, ...]:
    """A verdict for each batch size, judged by the spread of the whole table."""
    sizes = sorted({cell.batch_size for cell in cells})
    blocks = {size: paired_runs(rows, size, "test_accuracy") for size in sizes}
    at = {size: {cell.norm: cell for cell in cells if cell.batch_size == size} for size in sizes}
    scattering = {size: _scattering(at[size], blocks[size]) for size in sizes}
    reliable = {size: [norm for norm in at[size] if norm not in scattering[size]] for size in sizes}
    chance = Chance([blocks[size].only(reliable[size]) for size in sizes])
    return tuple(_verdict(at[size], blocks[size], reliable[size], chance) for size in sizes)


def paired_runs(rows: Sequence[Row], batch_size: int, field: str) -> Block:
    """A field of the rows of one batch size by normalizer and seed."""
    measured: dict[str, dict[int, float]] = {}
    for row in rows:
        if row["batch_size"] == batch_size and row[field] is not None:
            measured.setdefault(row["norm"], {})[row["seed"]] = row[field]
    return block_of(batch_size, measured)


def resolution(cell: Cell) -> float:
    """Half the 95 % interval of one accuracy on the held-out samples."""
    # Laplace's estimate keeps the interval of a perfect accuracy above 0.
    rate = (cell.mean * cell.test_samples + 1) / (cell.test_samples + 2)
    return 1.96 * math.sqrt(rate * (1 - rate) / cell.test_samples)


def _scattering(cells: Mapping[str, Cell], block: Block) -> list[str]:
    return [norm for norm, cell in cells.items() if _disagree(cell, block)]


def _disagree(cell: Cell, block: Block) -> bool:
    """Whether its runs lie too far apart to say what to expect of the next one (see `RULE`)."""
    limit = max(SCATTER, math.sqrt(2) * resolution(cell))
    if not _apart(np.array(cell.accuracies), limit):
        return False
    own = block.norms.index(cell.norm)
    others = np.delete(block.values, own, axis=0)
    if not others.size or cell.diverged:
        return True
    return _apart(block.values[own] - np.median(others, axis=0), limit) or block.seeds < cell.n


def _apart(values: np.ndarray, limit: float) -> bool:
    """Two of the values typically, or the worst and the median: a single lost run does not drown in many good ones."""
    if len(values) < 2:
        return False
    return bool(math.sqrt(2) * values.std(ddof=1) > limit or np.median(values) - values.min() > limit)


def _verdict(cells: Mapping[str, Cell], block: Block, reliable: Sequence[str], chance: Chance) -> Verdict:
    # Where seeds are missing that others have, only the common ones are compared.
    means = {norm: block.mean(norm) if block.seeds else cell.mean for norm, cell in cells.items()}
    ranked = sorted(cells, key=lambda norm: means[norm], reverse=True)
    trained = any(_has_learned(cell) for cell in cells.values())
    leader = next((norm for norm in ranked if norm in reliable), None) if trained else None
    if leader is None:
        return _without_leader(cells, ranked, trained, means)
    of_reliable, floor = block.only(reliable), resolution(cells[leader])
    needed = {norm: chance.needed(of_reliable, leader, norm) for norm in reliable}
    needed |= {norm: _needed_alone(block, leader, norm) for norm in cells if norm not in reliable}
    needed = {norm: None if need is None else max(need, floor) for norm, need in needed.items()}
    behind = [norm for norm in ranked if (need := needed[norm]) is not None and means[leader] - means[norm] > need]
    unreliable = [norm for norm in ranked if norm not in reliable and norm not in behind]
    runner_up = next((norm for norm in ranked if norm in reliable and norm != leader), None)
    lead = means[leader] - means[runner_up] if runner_up else None
    more_seeds = None
    if runner_up and lead and lead > floor and runner_up not in behind and of_reliable.freedom:
        more_seeds = chance.seeds_to_settle(of_reliable, leader, runner_up, lead)
    return Verdict(
        batch_size=block.batch_size,
        leader=leader,
        runner_up=runner_up,
        lead=lead,
        needed=needed[runner_up] if runner_up else None,
        tied=tuple(norm for norm in ranked if norm in reliable and norm not in behind),
        unreliable=tuple(unreliable),
        above=tuple(norm for norm in unreliable if means[norm] > means[leader]),
        behind=tuple(behind),
        clear=len(cells) > 1 and len(behind) == len(cells) - 1,
        trained=True,
        diverged=False,
        resolution=floor,
        more_seeds=more_seeds,
        means=means,
    )


def _has_learned(cell: Cell) -> bool:
    """Whether some run did not diverge and they answer more than the most frequent class everywhere would."""
    return cell.diverged < cell.n and (cell.chance is None or cell.best > cell.chance + resolution(cell))


def _without_leader(
    cells: Mapping[str, Cell], ranked: Sequence[str], trained: bool, means: Mapping[str, float]
) -> Verdict:
    return Verdict(
        batch_size=cells[ranked[0]].batch_size,
        leader=None,
        runner_up=None,
        lead=None,
        needed=None,
        tied=(),
        unreliable=tuple(ranked) if trained else (),
        above=(),
        behind=(),
        clear=False,
        trained=trained,
        diverged=all(cell.diverged == cell.n for cell in cells.values()),
        resolution=max(map(resolution, cells.values())),
        more_seeds=None,
        means=means,
    )


def _needed_alone(block: Block, leader: str, norm: str) -> float | None:
    """For a contestant whose runs disagree: by its own differences from the leader, whose spread no other shares."""
    pair = block.only((leader, norm))
    if not pair.freedom:
        return None
    # Against each of the others, as the range test has it.
    quantile = range_quantile((len(block.norms),), pair.freedom)
    differences = pair.values[0] - pair.values[1]
    return quantile / math.sqrt(2) * float(differences.std(ddof=1)) / math.sqrt(pair.seeds)
