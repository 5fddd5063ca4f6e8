"""The cost of the leading normalizers: time and memory of a training step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from .cells import Cell, spoken
from .verdict import Verdict

MEGABYTE = 1e6
# Relative differences smaller than this are ignored: they are noise, or too small to matter.
SAME = 1.05


class Price(NamedTuple):
    """A figure of a training step at a batch size, and its form in a sentence: "5.0 ms a step"."""

    field: str
    form: str
    unit: float
    least: str


PRICES = (
    Price("step_ms", "{} ms a step", 1.0, "the shortest"),
    Price("peak_memory_bytes", "{} MB at its peak", MEGABYTE, "the least"),
)


def costs(cells: Sequence[Cell], verdicts: Sequence[Verdict]) -> list[str]:
    """A sentence for the smallest and the largest batch size with a leader and others that trained: on the normalizer
    that leads or ties everywhere, if there is one, otherwise on all that lead or tie there."""
    judged = [verdict for verdict in verdicts if verdict.leader is not None]
    everywhere = set.intersection(*(set(verdict.tied) for verdict in judged)) if judged else set()
    ends = judged if len(judged) < 2 else [judged[0], judged[-1]]
    found = [_sentence(v.batch_size, everywhere if len(everywhere) == 1 else set(v.tied), cells) for v in ends]
    return [sentence for sentence in found if sentence]


def _sentence(batch_size: int, norms: set[str], cells: Sequence[Cell]) -> str | None:
    trained = [cell for cell in cells if cell.batch_size == batch_size and max(cell.diverged, cell.lost) < cell.n]
    leading = [cell for cell in trained if cell.norm in norms]
    # Step times of a user's own training were measured one after another.
    prices = [price for price in PRICES if price.field != "step_ms" or not cells[0].metric.own]
    shown = [text for price in prices if (text := _cost(price, leading, trained))]
    if not shown or len(trained) < 2:
        return None
    who = spoken(leading[0].norm) if len(leading) == 1 else f"one of the {len(leading)} that lead"
    return f"What {who} costs at batch size {batch_size}: {'; '.join(shown)}."


def _cost(price: Price, leading: Sequence[Cell], trained: Sequence[Cell]) -> str | None:
    """For a single leader its figure and its ratio to the least; for several leaders their range."""
    known = sorted((cell for cell in trained if _figure(cell, price)), key=lambda cell: _figure(cell, price))
    leaders = [cell for cell in known if cell in leading]
    if len(leaders) < len(leading) or not leaders:
        return None
    least, first, last = known[0], leaders[0], leaders[-1]
    if len(leaders) > 1:
        return _range(price, first, last)
    ratio = _figure(first, price) / _figure(least, price)
    text = price.form.format(f"{_figure(first, price):.3g}")
    if ratio < SAME:
        return f"{text}, {price.least} of all or as good as that"
    return f"{text}, {ratio:.2f} times {price.least} ({spoken(least.norm)}, {_figure(least, price):.3g})"


def _range(price: Price, first: Cell, last: Cell) -> str:
    low, high = _figure(first, price), _figure(last, price)
    if high < SAME * low:
        return f"all about {price.form.format(f'{low:.3g}')}"
    return f"from {low:.3g} ({spoken(first.norm)}) to {price.form.format(f'{high:.3g}')} ({spoken(last.norm)})"


def _figure(cell: Cell, price: Price) -> float:
    return (getattr(cell, price.field) or 0.0) / price.unit
