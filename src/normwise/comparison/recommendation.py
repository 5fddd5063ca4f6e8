"""What to choose after a sweep, with the numbers that say so."""

from __future__ import annotations

from collections.abc import Sequence

from .cells import Cell, spoken, title
from .verdict import Verdict, scatters

GAP_WORTH_NAMING = 0.01


def recommend(cells: Sequence[Cell], verdicts: Sequence[Verdict]) -> tuple[str, tuple[str, ...]]:
    """A headline, and the sentences of evidence for it.

    A normalizer is recommended where it is the only one that is nowhere clearly behind and nowhere unreliable; where
    several are, there is no clear winner; where none is, the choice depends on the batch size.
    """
    norms = list(dict.fromkeys(cell.norm for cell in cells))
    beaten = {norm for verdict in verdicts for norm in (*verdict.behind, *verdict.unreliable)}
    standing = [norm for norm in norms if norm not in beaten]
    evidence = [verdict.sentence for verdict in verdicts]
    evidence += [sentence for verdict in verdicts if (sentence := _behind(cells, verdict))]
    evidence += [sentence for verdict in verdicts for sentence in _unreliable(cells, verdict)]
    evidence += _diverged(cells) + _gaps(cells)
    return _headline(norms, standing, verdicts, cells), tuple(evidence)


def _headline(norms: list[str], standing: list[str], verdicts: Sequence[Verdict], cells: Sequence[Cell]) -> str:
    sizes = [verdict.batch_size for verdict in verdicts]
    where = f"batch size {sizes[0]}" if len(sizes) == 1 else "every batch size"
    if len(norms) == 1:
        return f"Only {spoken(norms[0])} was run: there is nothing to compare it with."
    if all(verdict.needed is None and not verdict.unreliable for verdict in verdicts):
        return "No clear winner can be named from one seed: run at least two seeds to see the spread."
    if len(standing) == 1:
        reliable = " that is reliable" if any(verdict.unreliable for verdict in verdicts) else ""
        return f"{title(standing[0])}: at {where} it leads or ties with the leader, which holds for no other{reliable}."
    if standing:
        fastest = _fastest(standing, cells, min(sizes))
        named = _listed([spoken(norm) for norm in standing])
        return f"No clear winner: {named} are within chance of the best at {where}.{fastest}"
    best = ", ".join(f"{' or '.join(spoken(n) for n in v.tied)} at {v.batch_size}" for v in verdicts)
    return f"The best choice depends on the batch size: {best}."


def _fastest(standing: list[str], cells: Sequence[Cell], size: int) -> str:
    timed = [c for c in cells if c.norm in standing and c.batch_size == size and c.step_ms is not None]
    if len(timed) < 2:
        return ""
    quickest, slowest = min(timed, key=_step), max(timed, key=_step)
    return (
        f" Of these, {spoken(quickest.norm)} has the shortest step at batch size {size} ({quickest.step_ms:.2f} ms; "
        f"{spoken(slowest.norm)} {slowest.step_ms:.2f} ms)."
    )


def _step(cell: Cell) -> float:
    return cell.step_ms or 0.0


def _behind(cells: Sequence[Cell], verdict: Verdict) -> str:
    if not verdict.behind:
        return ""
    means = {cell.norm: cell.mean for cell in cells if cell.batch_size == verdict.batch_size}
    named = _listed([f"{spoken(norm)} ({means[norm]:.1%})" for norm in verdict.behind])
    return f"Clearly behind at batch size {verdict.batch_size}: {named}."


def _unreliable(cells: Sequence[Cell], verdict: Verdict) -> list[str]:
    at = {cell.norm: cell for cell in cells if cell.batch_size == verdict.batch_size}
    leader = at[verdict.leader]
    runs = {norm: f"its runs go from {cell.worst:.1%} to {cell.best:.1%}" for norm, cell in at.items()}
    found = [
        f"Unreliable at batch size {verdict.batch_size}: {spoken(norm)}, {at[norm].mean:.1%} on average; {runs[norm]}."
        for norm in verdict.unreliable
    ]
    if scatters(leader):
        found.append(f"{title(leader.norm)} leads at batch size {verdict.batch_size}, but {runs[leader.norm]}.")
    return found


def _diverged(cells: Sequence[Cell]) -> list[str]:
    return [
        f"{title(cell.norm)} diverged in {cell.diverged} of {cell.n} runs at batch size {cell.batch_size}."
        for cell in cells
        if cell.diverged
    ]


def _gaps(cells: Sequence[Cell]) -> list[str]:
    found = []
    for norm in dict.fromkeys(cell.norm for cell in cells):
        widest = max((cell for cell in cells if cell.norm == norm), key=lambda cell: abs(cell.gap or 0.0))
        if widest.gap is not None and widest.train_mode is not None and abs(widest.gap) >= GAP_WORTH_NAMING:
            found.append(
                f"{title(norm)} at batch size {widest.batch_size}: {widest.train_mode:.1%} of the held-out split with "
                f"the statistics of training, {widest.train_mode - widest.gap:.1%} with those of evaluation "
                f"(gap {100 * widest.gap:+.1f} points)."
            )
    return found


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
