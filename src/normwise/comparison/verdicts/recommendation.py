"""The recommendation after a sweep, in at most three sentences."""

from __future__ import annotations

from collections.abc import Sequence

from .cells import Row, counted, listed, spoken, title
from .step_time import shortest_step
from .verdict import Verdict

LOWER_THE_RATE = "Start again with a lower learning rate, such as a tenth of it (--learning-rate)."
TRAIN_LONGER = "Train longer (--epochs) or at another learning rate, and look whether the labels belong to the samples."


def headline(rows: Sequence[Row], norms: Sequence[str], verdicts: Sequence[Verdict]) -> str:
    """The recommendation. A normalizer is recommended if it is the only one that is nowhere clearly behind and
    everywhere reliable. If several are, there is no clear winner; if none is, the choice depends on the batch size."""
    trained = [verdict for verdict in verdicts if verdict.trained]
    if not trained and verdicts[0].metric.own:
        return f"No run has a finite {verdicts[0].metric.spoken}: the report says why."
    if not trained:
        return _nothing_trained(verdicts)
    sentences = _on_trained(rows, norms, trained)
    failed = [verdict for verdict in verdicts if not verdict.trained]
    if failed:
        at = listed([str(verdict.batch_size) for verdict in failed])
        sentences = [*sentences[:2], f"At batch size {at} {_failures(failed)}."]
    return " ".join(sentences)


def _failures(verdicts: Sequence[Verdict]) -> str:
    if verdicts[0].metric.own:
        return "no run has a result"
    return (
        f"nothing trained: {'lower the learning rate' if any(v.diverged for v in verdicts) else 'train longer there'}"
    )


def _nothing_trained(verdicts: Sequence[Verdict]) -> str:
    where = "at every batch size" if len(verdicts) > 1 else f"at batch size {verdicts[0].batch_size}"
    if all(verdict.diverged for verdict in verdicts):
        return f"Nothing trained {where}: every run diverged, its loss stopped being finite. {LOWER_THE_RATE}"
    if any(verdict.diverged for verdict in verdicts):
        return f"Nothing trained {where}: runs diverged, and none is better than chance. {LOWER_THE_RATE}"
    return f"Nothing trained {where}: no run is better than {verdicts[0].metric.chance}. {TRAIN_LONGER}"


def _on_trained(rows: Sequence[Row], norms: Sequence[str], trained: Sequence[Verdict]) -> list[str]:
    if len(norms) == 1:
        return [f"Only {spoken(norms[0])} was run: there is nothing to compare it with."]
    if all(verdict.needed is None and not verdict.unreliable for verdict in trained):
        return ["No clear winner can be named from one seed: run at least two seeds to see the spread."]
    judged = [verdict for verdict in trained if verdict.leader is not None]
    return _among(rows, norms, judged) if judged else _without_leader(trained)


def _among(rows: Sequence[Row], norms: Sequence[str], judged: Sequence[Verdict]) -> list[str]:
    beaten = {norm for verdict in judged for norm in (*verdict.behind, *verdict.unreliable)}
    standing = [norm for norm in norms if norm not in beaten]
    sizes = [verdict.batch_size for verdict in judged]
    where = f"batch size {sizes[0]}" if len(sizes) == 1 else "every batch size"
    above = list(dict.fromkeys(norm for verdict in judged for norm in verdict.above))
    if len(standing) == 1 and not above:
        other = "no other that is reliable" if any(verdict.unreliable for verdict in judged) else "no other"
        return [f"{title(standing[0])}: at {where} it leads or ties with the leader, which holds for {other}."]
    if not standing:
        return [f"The best choice depends on the batch size: {_by_size(judged)}."]
    verb = "is" if len(standing) == 1 else "are"
    named = listed([spoken(norm) for norm in standing])
    first = f"No clear winner: {named} {verb} within chance of the best{' reliable one' * bool(above)} at {where}."
    if above:
        why = "disagree or failed" if judged[0].metric.own else "disagree"
        return [first, f"Better on average somewhere, but with runs that {why}: {listed([*map(spoken, above)])}."]
    # Step times of a user's own training are not measured in turns.
    second = None if judged[0].metric.own else shortest_step(rows, standing, min(sizes))
    return [first, *([second] if second else []), *_seeds(judged)]


def _without_leader(trained: Sequence[Verdict]) -> list[str]:
    why = "no normalizer is reliable, the runs of each lie far apart"
    if any(verdict.at_chance for verdict in trained):
        why = f"those whose runs agree are no better than {trained[0].metric.chance}"
    return [f"No clear winner: {why}.", "Train longer or at a lower learning rate, or run more seeds."]


def _seeds(judged: Sequence[Verdict]) -> list[str]:
    """A sentence on the open batch size that needs the fewest additional seeds."""
    wanted = [verdict for verdict in judged if verdict.more_seeds and verdict.leader and verdict.runner_up]
    if not wanted:
        return []
    v = min(wanted, key=lambda verdict: verdict.more_seeds or 0)
    return [
        f"About {counted(v.more_seeds or 0, 'more seed')} would tell {spoken(v.leader or '')} from "
        f"{spoken(v.runner_up or '')} at batch size {v.batch_size}, if the lead stays what it is."
    ]


def _by_size(judged: Sequence[Verdict]) -> str:
    """Batch sizes with the same best together: "GroupNorm at 2 and 4, BatchNorm or LayerNorm at 64"."""
    sizes: dict[str, list[str]] = {}
    for verdict in judged:
        names = [spoken(norm) for norm in verdict.tied]
        best = " or ".join(names) if len(names) <= 3 else f"{names[0]} or one of {len(names) - 1} others"
        sizes.setdefault(best, []).append(str(verdict.batch_size))
    return ", ".join(f"{best} at {listed(at, most=12)}" for best, at in sizes.items())
