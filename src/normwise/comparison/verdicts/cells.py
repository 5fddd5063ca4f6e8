"""The runs of one normalizer at one batch size in a few numbers."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ...layers import NORMALIZERS
from ..contestants.bank import BANK
from ..contestants.normalizer_free import NORMALIZER_FREE
from ..contestants.strategy_names import strategy_of
from ..metric import Metric, metric_of

Row = dict[str, Any]


@dataclass(frozen=True)
class Cell:
    """One normalizer at one batch size: means over `n` runs; accuracies from 0 to 1.

    `values` are the metric of the single runs, `mean` their mean (NaN where no run has one), `std` their sample
    standard deviation, None for fewer than two. A diverged run counts with its credited accuracy; `lost` is the number
    of runs without any value. The other figures are means over the runs that have them, `step_ms` is the median.
    `chance` is the metric of a model that has learned nothing, `interval` half the 95 % interval of the metric on the
    held-out samples; both are None if the rows do not have them.
    """

    norm: str
    batch_size: int
    n: int
    diverged: int
    lost: int
    metric: Metric
    mean: float
    values: tuple[float, ...]
    std: float | None
    train_mode: float | None
    gap: float | None
    on_training_split: float | None
    step_ms: float | None
    peak_memory_bytes: int | None
    test_samples: int | None
    chance: float | None = None
    interval: float | None = None

    @property
    def failed(self) -> int:
        """Runs that ended in an error."""
        return self.lost - self.diverged if self.metric.own else self.lost

    @property
    def worst(self) -> float:
        return min(self.values, key=self.metric.score)

    @property
    def best(self) -> float:
        return max(self.values, key=self.metric.score)


def title(norm: str) -> str:
    """The name of a normalizer in a report.

    >>> title("batch"), title("group:8"), title("my_norm"), title("batch:frozen")
    ('BatchNorm', 'GroupNorm (8 groups)', 'my_norm', 'Frozen BatchNorm')
    """
    if strategy := strategy_of(norm):
        return f"{strategy.adjective.capitalize()} {title(strategy.norm)}"
    name, _, groups = norm.partition(":")
    if norm == NORMALIZER_FREE:
        return "Normalizer-free"
    if norm == BANK:
        return "BatchNorm with banks"
    if name not in NORMALIZERS:
        return norm
    return NORMALIZERS[name].title + (f" ({groups} groups)" if groups else "")


def spoken(norm: str) -> str:
    """The title inside a sentence.

    >>> spoken("batch"), spoken("none"), spoken("nf"), spoken("swap:group")
    ('BatchNorm', 'no normalization', 'the normalizer-free net', 'swapped-in GroupNorm')
    """
    if strategy := strategy_of(norm):
        return f"{strategy.adjective} {title(strategy.norm)}"
    if norm == NORMALIZER_FREE:
        return "the normalizer-free net"
    if norm == BANK:
        return "BatchNorm with a bank for each group"
    return title(norm).lower() if norm == "none" else title(norm)


def listed(names: Sequence[str], most: int = 4) -> str:
    """Names in a sentence; of many, only the first.

    >>> listed(["a"]), listed(["a", "b", "c"]), listed(list("abcdefg"))
    ('a', 'a, b and c', 'a, b, c, d and 3 others')
    """
    if len(names) > most + 1:
        return f"{', '.join(names[:most])} and {len(names) - most} others"
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def counted(number: int, noun: str) -> str:
    """A number and its noun.

    >>> counted(1, "seed"), counted(2, "batch size")
    ('1 seed', '2 batch sizes')
    """
    return f"{number} {noun}{'' if number == 1 else 's'}"


def cells_of(rows: Sequence[Row]) -> tuple[Cell, ...]:
    """One cell per normalizer and batch size, in the order of the rows."""
    groups: dict[tuple[str, int], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["norm"], row["batch_size"]), []).append(row)
    metric = metric_of(rows)
    return tuple(_cell(group, metric) for group in groups.values())


def _cell(rows: list[Row], metric: Metric) -> Cell:
    values = [value for row in rows if (value := metric.of(row)) is not None]
    memory = [row["peak_memory_bytes"] for row in rows if row["peak_memory_bytes"] is not None]
    steps = [row["step_ms"] for row in rows if row["step_ms"] is not None]
    return Cell(
        norm=rows[0]["norm"],
        batch_size=rows[0]["batch_size"],
        n=len(rows),
        diverged=sum(row["status"] == "diverged" for row in rows),
        lost=len(rows) - len(values),
        metric=metric,
        mean=statistics.fmean(values) if values else math.nan,
        values=tuple(values),
        std=statistics.stdev(values) if len(values) > 1 else None,
        train_mode=_mean(rows, f"{metric.field}_train_mode"),
        gap=_mean(rows, "train_eval_gap"),
        on_training_split=_mean(rows, f"train_{metric.name}"),
        step_ms=statistics.median(steps) if steps else None,
        peak_memory_bytes=max(memory) if memory else None,
        test_samples=rows[0].get("test_samples"),
        chance=rows[0].get(f"chance_{metric.name}"),
        interval=_mean(rows, "test_interval"),
    )


def _mean(rows: list[Row], field: str) -> float | None:
    values = [row[field] for row in rows if row.get(field) is not None]
    return statistics.fmean(values) if values else None
