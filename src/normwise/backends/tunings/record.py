"""Measurements for one device, element type and number of threads: kernels against torch's operators."""

from __future__ import annotations

import json
import math
from typing import Any, NamedTuple

#: The number of the file format; a file with another number is not read.
FORMAT = 1
#: Torch's operator is chosen if it takes less than this part of the kernel's time: near 1 noise would choose, and
#: between equals the kernel is preferred, whose statistics are more exact.
AHEAD = 0.95
DIRECTIONS = {False: "forward", True: "forward + backward"}

#: An operation (see `normwise.operations.request.operation_of`), its tensor's layout, whether a backward pass follows.
Cell = tuple[str, str, bool]


class Verdict(NamedTuple):
    """Which is faster for one kind of call, and the measurement behind it."""

    kernels: bool
    said: str


class Tuning(NamedTuple):
    """The ratio of torch's time to the kernel's, for each cell by the number of values: 2 to the power of the key.

    A size is left out if the measurement did not decide; the nearest other size is used instead.
    """

    device: str
    machine: str
    #: The name of the processor, or the GPU's compute capability.
    instructions: str
    element: str
    #: 0 on a GPU.
    threads: int
    torch: str
    date: str
    ratios: dict[Cell, dict[int, float]]
    shipped: bool = False

    def verdict(self, operation: str, layout: str, graph: bool, count: int) -> Verdict | None:
        """Which is faster for ``count`` values, by the nearest measured size; None if nothing was measured."""
        ratios = self.ratios.get((operation, layout, graph))
        if not ratios:
            return None
        power = math.log2(max(count, 1))
        nearest = min(ratios, key=lambda size: abs(size - power))
        ratio = ratios[nearest]
        said = f"{self.name}: torch's operator takes {ratio:.2f} times a kernel's time on 2^{nearest} values"
        return Verdict(ratio >= AHEAD, said)

    @property
    def name(self) -> str:
        """The tuning in words: where it comes from, and what it applies to."""
        where = f"shipped for {self.instructions}" if self.shipped else "measured on this machine"
        threads = f", threads: {self.threads}" if self.threads else ""
        return f"the tuning {where} ({self.date}, {self.element}{threads})"

    def choice(self, cell: Cell) -> str:
        """The choice for every size in words, such as ``torch's operator below 2^17``.

        >>> ratios = {("rows", "contiguous", True): {12: 0.7, 16: 0.9, 18: 1.2}}
        >>> Tuning("cpu", "", "x86-64-v4", "fp32", 1, "", "", ratios).choice(("rows", "contiguous", True))
        "torch's operator below 2^17, kernels from there"
        """
        sizes = sorted(self.ratios[cell])
        kernels = [self.ratios[cell][size] >= AHEAD for size in sizes]
        said = [_WHO[kernels[0]]]
        for i in range(1, len(sizes)):
            if kernels[i] != kernels[i - 1]:
                said[-1] += f" below 2^{(sizes[i - 1] + sizes[i]) / 2:g}"
                said.append(_WHO[kernels[i]])
        return ", ".join(said) + (" from there" if len(said) > 1 else "")


_WHO = {True: "kernels", False: "torch's operator"}


def to_data(tuning: Tuning) -> dict[str, Any]:
    """The tuning as data for JSON."""
    about = {name: value for name, value in tuning._asdict().items() if name not in ("ratios", "shipped")}
    cells = [
        {
            "operation": operation,
            "layout": layout,
            "direction": DIRECTIONS[graph],
            "ratios": {str(k): round(r, 3) for k, r in r.items()},
        }
        for (operation, layout, graph), r in tuning.ratios.items()
    ]
    return {"format": FORMAT, **about, "cells": cells}


def from_data(data: Any, *, shipped: bool = False) -> Tuning:
    """The tuning that `to_data` wrote. Raises ValueError for anything else."""
    try:
        if data["format"] != FORMAT:
            raise ValueError(f"format {data['format']!r}")
        about = {name: data[name] for name in Tuning._fields[:7]}
        texts = (value for name, value in about.items() if name != "threads")
        if not (all(isinstance(text, str) for text in texts) and isinstance(about["threads"], int)):
            raise ValueError("what it was measured on")
        directions = {name: graph for graph, name in DIRECTIONS.items()}
        ratios = {
            (str(cell["operation"]), str(cell["layout"]), directions[cell["direction"]]): {
                int(size): float(ratio) for size, ratio in cell["ratios"].items()
            }
            for cell in data["cells"]
        }
    except (KeyError, TypeError, AttributeError) as problem:
        raise ValueError(f"it is no tuning: {problem!r}") from problem
    if not all(0 < ratio < math.inf for sizes in ratios.values() for ratio in sizes.values()):
        raise ValueError("a ratio of times is not positive")
    return Tuning(**about, ratios=ratios, shipped=shipped)


def to_text(tuning: Tuning) -> str:
    """The content of a file, with one line for each cell."""
    data = to_data(tuning)
    cells = ",\n".join(f"  {json.dumps(cell)}" for cell in data.pop("cells"))
    return json.dumps(data)[:-1] + f', "cells": [\n{cells}\n]}}\n'
