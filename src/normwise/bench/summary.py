"""From rows to the summary of a bench: geometric means, the smallest ratios, the distance from the floor."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch

from .cases import DTYPES
from .measure import OK
from .storage import Row
from .subjects import SUBJECTS

#: The beginning of the heading of a layer with fused operations.
FUSED = "+ "
#: Below this size host time dominates, and the floor says nothing.
FLOOR_FROM_BYTES = 1 << 20
DIRECTION_TITLES = {"forward": "forward", "backward": "backward", "both": "forward + backward"}


@dataclass(frozen=True)
class Figures:
    """The figures of one group of cells: their number, the geometric mean and the least of the ratios, the median
    distance from the floor (None if no tensor is large enough)."""

    cells: int
    ratio: float
    least: float
    floor: float | None


def title(row: Row) -> str:
    """The layer with its fused operations.

    >>> title({"layer": "batch", "activation": "relu", "residual": "1"})
    'BatchNorm + residual + relu'
    """
    parts = [SUBJECTS[row["layer"]].title]
    if row["residual"] == "1":
        parts.append("residual")
    if row["activation"]:
        parts.append(row["activation"])
    return " + ".join(parts)


def baseline(row: Row) -> str:
    """The baseline of the ratio: "native" or "paper"."""
    return "native" if SUBJECTS[row["layer"]].native else "paper"


def by_memory(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """The rows by regime, in words: "memory as it comes", "memory reused", or "" for those of a GPU."""
    return groups(rows, lambda row: row["memory"] and f"memory {row['memory']}")


def timed(rows: Iterable[Row]) -> list[Row]:
    """The rows with times."""
    return [row for row in rows if row["status"] == OK]


def faulty(rows: Iterable[Row]) -> list[Row]:
    """The rows of wrong or failed layers."""
    return [row for row in rows if row["status"] != OK]


def figures(rows: Sequence[Row]) -> Figures | None:
    """The figures of some timed rows; None if there are none."""
    if not rows:
        return None
    ratios = [float(row["ratio"]) for row in rows]
    floors = [float(row["x_of_floor"]) for row in rows if tensor_bytes(row) >= FLOOR_FROM_BYTES]
    return Figures(len(rows), geometric_mean(ratios), min(ratios), statistics.median(floors) if floors else None)


def geometric_mean(values: Sequence[float]) -> float:
    """The geometric mean of positive numbers.

    >>> geometric_mean([1.0, 4.0])
    2.0
    """
    return math.exp(sum(map(math.log, values)) / len(values))


def advantage(rows: Iterable[Row], column: str) -> float | None:
    """The geometric mean of another contestant's time over ours; None if it was not timed."""
    ratios = [float(row[column]) / float(row["ours_ms"]) for row in rows if row[column]]
    return geometric_mean(ratios) if ratios else None


def groups(rows: Iterable[Row], key: Callable[[Row], str] = title) -> dict[str, list[Row]]:
    """The rows by key, in the order in which the keys appear."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(key(row), []).append(row)
    return found


def by_layer(rows: Iterable[Row]) -> list[tuple[str, list[Row]]]:
    """The rows of each layer, then those with its fused operations, each with a heading: "BatchNorm", "+ relu"."""
    order = list(SUBJECTS)

    def rank(row: Row) -> tuple[int, str, str]:
        return order.index(row["layer"]), row["activation"], row["residual"]

    found = groups(sorted(rows, key=rank))
    return [
        (name if plain(members[0]) else FUSED + name.partition(" + ")[2], members) for name, members in found.items()
    ]


def plain(row: Row) -> bool:
    """Whether the layer has no fused operation."""
    return not row["activation"] and row["residual"] == "0"


def slower(rows: Iterable[Row]) -> list[Row]:
    """The timed rows with a ratio below 1, the slowest first."""
    below = [row for row in timed(rows) if float(row["ratio"]) < 1]
    return sorted(below, key=lambda row: float(row["ratio"]))


def tensor_bytes(row: Row) -> int:
    """The size of the activation tensor."""
    element = torch.empty(0, dtype=DTYPES[row["dtype"]]).element_size()
    return math.prod(map(int, row["shape"].split("x"))) * element


def place(row: Row) -> str:
    """A cell in words.

    >>> place({"layer": "group", "activation": "", "residual": "0", "shape": "2x32x8x8", "dtype": "bf16",
    ...        "layout": "channels_last", "direction": "both", "threads": "1", "memory": "reused"})
    'GroupNorm, 2x32x8x8, bf16, channels_last, forward + backward, 1 thread, memory reused'
    """
    parts = [title(row), row["shape"], row["dtype"], row["layout"], DIRECTION_TITLES[row["direction"]]]
    if row["threads"] != "0":
        parts.append(f"{row['threads']} thread{'' if row['threads'] == '1' else 's'}")
    if row["memory"]:
        parts.append(f"memory {row['memory']}")
    return ", ".join(parts)
