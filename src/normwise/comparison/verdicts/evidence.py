"""The sentences that a recommendation rests on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from .cells import Cell, counted, listed, spoken, title
from .cost import costs
from .spread import MOST_SEEDS
from .verdict import Verdict

# The least gap that is mentioned: of a share, and of another metric relative to its value.
GAP_WORTH_NAMING, CHANGE_WORTH_NAMING = 0.01, 0.05

At = dict[str, Cell]


def evidence(cells: Sequence[Cell], verdicts: Sequence[Verdict]) -> tuple[str, ...]:
    """The verdict on each batch size, the cost of the leaders, then what is open, behind, unreliable or diverged, and
    each gap large enough to mention."""
    at = {v.batch_size: {cell.norm: cell for cell in cells if cell.batch_size == v.batch_size} for v in verdicts}
    found = [*(verdict.sentence for verdict in verdicts), *costs(cells, verdicts)]
    found += [sentence for verdict in verdicts if (sentence := _open(verdict, at[verdict.batch_size]))]
    found += [sentence for verdict in verdicts if (sentence := _behind(verdict, at[verdict.batch_size]))]
    found += [sentence for verdict in verdicts for sentence in _unreliable(verdict, at[verdict.batch_size])]
    return (*found, *_diverged(cells), *_gaps(cells))


def stopped_early(cells: Sequence[Cell], places: Mapping[tuple[str, int], int]) -> tuple[str, ...]:
    """Sentences on the runs that a sweep stopped early, and why."""
    most = max((cell.n for cell in cells), default=0)
    by_seeds: dict[tuple[int, int], list[str]] = {}
    for (norm, size), seeds in places.items():
        if seeds < most:
            by_seeds.setdefault((size, seeds), []).append(spoken(norm))
    return tuple(
        f"Stopped at batch size {size} after {counted(seeds, 'seed')}, clearly behind: {listed(norms, most=12)}."
        for (size, seeds), norms in sorted(by_seeds.items())
    )


def _open(verdict: Verdict, cells: At) -> str | None:
    """A sentence on how many more seeds would decide an open batch size."""
    if verdict.leader is None or verdict.lead is None or verdict.needed is None or verdict.lead > verdict.needed:
        return None
    start = f"Batch size {verdict.batch_size} is open: "
    cell, metric = cells[verdict.leader], verdict.metric
    lead = f"a lead of {metric.difference(verdict.lead)}{metric.unit}"
    if verdict.lead <= verdict.resolution:
        return (
            f"{start}more seeds alone cannot settle {lead}; {cell.test_samples} held-out samples show no less than "
            f"{metric.difference(verdict.resolution)}."
        )
    if verdict.more_seeds is None:
        return f"{start}{lead} would take more than {MOST_SEEDS} more seeds."
    return (
        f"{start}about {counted(verdict.more_seeds, 'more seed')} would settle {lead} "
        f"(--seeds {cell.n + verdict.more_seeds})."
    )


def _behind(verdict: Verdict, cells: At) -> str | None:
    if not verdict.behind:
        return None
    named = listed([f"{spoken(norm)} ({verdict.metric.text(cells[norm].mean)})" for norm in verdict.behind], most=12)
    return f"Clearly behind at batch size {verdict.batch_size}: {named}."


def _unreliable(verdict: Verdict, cells: At) -> list[str]:
    text = verdict.metric.text
    return [
        f"Unreliable at batch size {verdict.batch_size}: {spoken(norm)}, {text(cell.mean)} on average; its runs go "
        f"from {text(cell.worst)} to {text(cell.best)}."
        for norm in verdict.unreliable
        if len((cell := cells[norm]).values) > 1
    ]


def _diverged(cells: Sequence[Cell]) -> list[str]:
    return [*_ended(cells, "diverged", "diverged"), *_ended(cells, "failed", "failed, see the report,")]


def _ended(cells: Sequence[Cell], field: str, verb: str) -> list[str]:
    """For each normalizer the number of runs that ended in this way."""
    found: dict[str, list[str]] = {}
    for cell in cells:
        if count := getattr(cell, field):
            found.setdefault(cell.norm, []).append(f"{count} of {cell.n} runs at batch size {cell.batch_size}")
    return [f"{title(norm)} {verb} in {listed(counts, most=12)}." for norm, counts in found.items()]


def _gaps(cells: Sequence[Cell]) -> list[str]:
    found = []
    for norm in dict.fromkeys(cell.norm for cell in cells):
        widest = max((cell for cell in cells if cell.norm == norm), key=lambda cell: abs(cell.gap or 0.0))
        if widest.gap is None or widest.train_mode is None:
            continue
        metric, evaluated = widest.metric, widest.train_mode - widest.gap
        if abs(widest.gap) >= (GAP_WORTH_NAMING if metric.share else CHANGE_WORTH_NAMING * abs(evaluated)):
            what = "" if metric.field == "test_accuracy" else f"{metric.spoken} "
            sign = "+" if widest.gap > 0 else "-"
            found.append(
                f"{title(norm)} at batch size {widest.batch_size}: {what}{metric.text(widest.train_mode)} of the "
                f"held-out split with the statistics of training, {metric.text(evaluated)} with those of evaluation "
                f"(gap {sign}{metric.difference(abs(widest.gap))}{metric.unit})."
            )
    return found
