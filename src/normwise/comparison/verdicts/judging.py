"""The rules of the verdict: which normalizer leads at each batch size, and whether the lead is more than chance."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from ..metric import ACCURACY, Metric, metric_of
from .cells import Cell, Row
from .chance import LEVEL, range_quantile
from .spread import Block, Chance, block_of
from .verdict import Verdict

# If runs of one normalizer differ by more than this, they do not predict the next run.
SCATTER = 0.05
# A metric that is no share: how many times the typical spread of a contestant.
WILD = 5

_COMPARED = (
    "Runs are compared seed by seed: those of one seed share the initial weights and the order of the data. A lead is "
    "clear when it is larger than the bound that the ranges of all batch sizes together exceed with a probability of "
    "5 % if all normalizers are equal (Tukey's studentized range; the spread is that of the paired differences, the "
    "largest of three estimates: pooled over the whole table, over the batch size, over the two compared), and larger "
    "than the 95 % interval of one {metric} on {samples} held-out samples. "
)
_ALONE = (
    "With one seed there is no spread, so no lead is clear. A normalizer is unreliable, and neither leads nor ties, "
)
_BEHIND = "it is clearly behind if its own differences from the leader show it."
RULE = (
    f"{_COMPARED.format(metric='accuracy', samples='this many')}{_ALONE}where its own runs lie more than "
    f"{100 * SCATTER:.0f} points apart, further than two accuracies on this many samples do by chance, and not because "
    f"a seed was hard for all; {_BEHIND}"
)
RULE_OF_VALUES = (
    f"{_COMPARED.partition(', and larger than')[0]}. {_ALONE}where a run has no value, or where its own runs lie "
    f"further apart than {100 * SCATTER:.0f} % of their mean and {WILD} times as far as is typical of the others, and "
    f"not because a seed was hard for all; {_BEHIND}"
)


def rule_of(metric: Metric) -> str:
    """The rules in words."""
    if metric.own:
        return RULE_OF_VALUES
    if metric == ACCURACY:
        return RULE
    compared = _COMPARED.format(metric=metric.spoken, samples="these")
    apart = f"{100 * SCATTER:.0f} points apart" if metric.share else f"{100 * SCATTER:.0f} % of their mean apart"
    return (
        f"{compared}The interval is that of leaving out a twentieth of the samples each time (jackknife). {_ALONE}"
        f"where its own runs lie more than {apart}, further than the samples explain, and not because a seed was "
        f"hard for all; {_BEHIND}"
    )


def verdicts_of(rows: Sequence[Row], cells: Sequence[Cell], level: float = LEVEL) -> tuple[Verdict, ...]:
    """A verdict for each batch size, by the spread of the whole table; with a probability `level` none is wrong."""
    sizes = sorted({cell.batch_size for cell in cells})
    at = {size: {cell.norm: cell for cell in cells if cell.batch_size == size} for size in sizes}
    blocks = {size: _scores(rows, at[size], size) for size in sizes}
    scattering = {size: _scattering(at[size], blocks[size]) for size in sizes}
    reliable = {size: [norm for norm in blocks[size].norms if norm not in scattering[size]] for size in sizes}
    chance = Chance([blocks[size].only(reliable[size]) for size in sizes], level)
    return tuple(_verdict(at[size], blocks[size], reliable[size], chance) for size in sizes)


def paired_runs(rows: Sequence[Row], batch_size: int, measure: Callable[[Row], float | None]) -> Block:
    """The measure of the rows of one batch size by normalizer and seed; rows without it are left out."""
    measured: dict[str, dict[int, float]] = {}
    for row in rows:
        if row["batch_size"] == batch_size and (value := measure(row)) is not None:
            measured.setdefault(row["norm"], {})[row["seed"]] = value
    return block_of(batch_size, measured)


def _scores(rows: Sequence[Row], cells: Mapping[str, Cell], batch_size: int) -> Block:
    """The scores (more is better) of all contestants that have the metric in each of their runs."""
    metric = metric_of(rows)
    whole = [row for row in rows if (cell := cells.get(row["norm"])) and not cell.lost]
    return paired_runs(whole, batch_size, lambda row: metric.score(metric.of(row) or 0.0))


def resolution(cell: Cell) -> float:
    """Half the 95 % interval of the metric on the held-out samples; 0 if it is unknown."""
    if cell.interval is not None:
        return cell.interval
    if cell.metric != ACCURACY or cell.test_samples is None or math.isnan(cell.mean):
        return 0.0
    # Laplace's estimate keeps the interval of a perfect accuracy above 0.
    rate = (cell.mean * cell.test_samples + 1) / (cell.test_samples + 2)
    return 1.96 * math.sqrt(rate * (1 - rate) / cell.test_samples)


def _scattering(cells: Mapping[str, Cell], block: Block) -> list[str]:
    spreads = [cell.std for norm in block.norms if (cell := cells[norm]).std is not None]
    typical = float(np.median(spreads)) if spreads else 0.0
    return [norm for norm in block.norms if _disagree(cells[norm], block, typical)]


def _disagree(cell: Cell, block: Block, typical: float) -> bool:
    """Whether the runs of a cell differ too much to predict the next one (see `RULE`)."""
    least = SCATTER if cell.metric.share else max(SCATTER * abs(cell.mean), WILD * math.sqrt(2) * typical)
    limit = max(least, math.sqrt(2) * resolution(cell))
    if not _apart(cell.metric.sign * np.array(cell.values), limit):
        return False
    own = block.norms.index(cell.norm)
    others = np.delete(block.values, own, axis=0)
    if not others.size or cell.diverged:
        return True
    return _apart(block.values[own] - np.median(others, axis=0), limit) or block.seeds < cell.n


def _apart(values: np.ndarray, limit: float) -> bool:
    """Whether the typical distance of two values, or that of the worst from the median, exceeds `limit`: so a single
    bad run is noticed among many good ones."""
    if len(values) < 2:
        return False
    return bool(math.sqrt(2) * values.std(ddof=1) > limit or np.median(values) - values.min() > limit)


def _verdict(cells: Mapping[str, Cell], block: Block, reliable: Sequence[str], chance: Chance) -> Verdict:
    metric = next(iter(cells.values())).metric
    # If a contestant lacks seeds that others have, only the common ones are compared.
    paired = block.norms if block.seeds else ()
    means = {norm: block.mean(norm) if norm in paired else metric.score(cell.mean) for norm, cell in cells.items()}
    ranked = sorted(cells, key=lambda norm: (norm in block.norms, means[norm]), reverse=True)
    scores = {norm: metric.score(mean) for norm, mean in means.items()}
    leader = next((norm for norm in ranked if norm in reliable), None)
    learned = leader is not None and _is_above_chance(cells[leader], scores[leader])
    if leader is None or not learned:
        # Runs that disagree may still have learned something in one of them.
        apart = [cell for norm, cell in cells.items() if norm not in reliable and cell.values]
        trained = any(_is_above_chance(cell, cell.best) for cell in apart)
        return _without_leader(cells, ranked, reliable if trained else (), trained, scores)
    of_reliable, floor = block.only(reliable), resolution(cells[leader])
    needed = {norm: chance.needed(of_reliable, leader, norm) for norm in reliable}
    needed |= {norm: _needed_alone(block, leader, norm, chance.level) for norm in block.norms if norm not in reliable}
    needed = {norm: None if need is None else max(need, floor) for norm, need in needed.items()}
    behind = [norm for norm in ranked if (need := needed.get(norm)) is not None and means[leader] - means[norm] > need]
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
        at_chance=(),
        clear=len(cells) > 1 and len(behind) == len(cells) - 1,
        trained=True,
        diverged=False,
        resolution=floor,
        more_seeds=more_seeds,
        means=scores,
        metric=metric,
    )


def _is_above_chance(cell: Cell, value: float) -> bool:
    """Whether a metric of the cell is better than chance by more than its interval; True if chance is unknown."""
    if cell.diverged == cell.n or cell.lost == cell.n:
        return False
    if cell.chance is None:
        return True
    return cell.metric.score(value) > cell.metric.score(cell.chance) + resolution(cell)


def _without_leader(
    cells: Mapping[str, Cell],
    ranked: Sequence[str],
    at_chance: Sequence[str],
    trained: bool,
    means: Mapping[str, float],
) -> Verdict:
    return Verdict(
        batch_size=cells[ranked[0]].batch_size,
        leader=None,
        runner_up=None,
        lead=None,
        needed=None,
        tied=(),
        unreliable=tuple(norm for norm in ranked if norm not in at_chance) if trained else (),
        above=(),
        behind=(),
        at_chance=tuple(norm for norm in ranked if norm in at_chance),
        clear=False,
        trained=trained,
        diverged=all(cell.diverged == cell.n for cell in cells.values()),
        resolution=max(map(resolution, cells.values())),
        more_seeds=None,
        means=means,
        metric=next(iter(cells.values())).metric,
    )


def _needed_alone(block: Block, leader: str, norm: str, level: float) -> float | None:
    """The required lead over a contestant whose runs disagree, from its own differences from the leader only."""
    pair = block.only((leader, norm))
    if not pair.freedom:
        return None
    # Against each of the others, as the range test has it.
    quantile = range_quantile((len(block.norms),), pair.freedom, level)
    differences = pair.values[0] - pair.values[1]
    return quantile / math.sqrt(2) * float(differences.std(ddof=1)) / math.sqrt(pair.seeds)
