"""An explanation as text: the cube as a grid of channels and positions, the table, the sentences."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Iterator
from typing import TYPE_CHECKING

from torch import Tensor

from .measuring import ALONE, MASKED

if TYPE_CHECKING:
    from .findings import Findings

NARROW, WIDE = 80, 120
MOST_ROWS = 12
_SIGNS = {ALONE: "·", MASKED: "-"}


def width_of_terminal() -> int:
    """80 or 120 columns, whichever fits."""
    return WIDE if shutil.get_terminal_size().columns >= WIDE else NARROW


def text(findings: Findings, width: int | None = None) -> str:
    """The whole explanation, at most ``width`` columns wide (80 or 120)."""
    width = width or width_of_terminal()
    mode = {True: ", training", False: ", evaluation", None: ""}[findings.training]
    title = findings.name if findings.row is None else f"{findings.row.title} ({findings.name})"
    lines = [f"{title}{mode}: x {list(findings.cube.shape)}", "", *cube_lines(findings.cube, findings.rows, width), ""]
    lines += list(_table(findings.properties, width))
    out = findings.output
    lines += _wrapped(
        "Output",
        f"of values with mean {out.mean_before:.2g} and variance {out.variance_before:.2g}: mean {out.mean:.2g}, "
        f"variance {out.variance:.2g}, from {out.low:.3g} to {out.high:.3g}",
        width,
    )
    lines += _wrapped("Cost", findings.cost, width)
    row = findings.row
    if row is not None:
        lines += ["", *_wrapped("Equation", row.equation, width), *_wrapped("Source", row.paper, width)]
        lines += _wrapped("Use it for", row.when_to_use, width) + _wrapped("Trap", row.trap, width)
    return "\n".join(line.rstrip() for line in lines)


def cube_lines(cube: Tensor, rows: bool, width: int) -> list[str]:
    """A block of ``channels x positions`` for each sample; equal numbers share all their statistics."""
    grid = as_grid(cube, rows)
    digits = max(len(str(int(cube.max()))), 1)
    samples, channels, positions = grid.shape
    shown = max(1, min(positions, (width - 8) // (digits + 1)))
    across = max(1, min(samples, (width - 6) // (shown * (digits + 1) + 2)))
    lines: list[str] = []
    for first in range(0, min(samples, 4 * across), across):
        block = range(first, min(samples, first + across))
        gap = shown * (digits + 1) + 1
        lines += [] if not lines else [""]
        lines.append("      " + " ".join(f"n={n}".ljust(gap) for n in block))
        for c in range(min(channels, MOST_ROWS)):
            cells = [" ".join(_sign(int(v), digits) for v in grid[n, c, :shown]).ljust(gap) for n in block]
            lines.append(f"c={c}".ljust(6) + " ".join(cells))
    left = samples * channels * positions - min(samples, 4 * across) * min(channels, MOST_ROWS) * shown
    lines += [f"      ({left:,} values more)"] if left else []
    return [*lines, *_legend(cube)]


def as_grid(cube: Tensor, rows: bool) -> Tensor:
    """``[samples, channels, positions]`` of any cube."""
    if cube.dim() < 2:
        return cube.reshape(1, 1, -1)
    if rows:
        return cube.movedim(-1, 1).flatten(2) if cube.dim() > 2 else cube.unsqueeze(-1)
    return cube.flatten(2) if cube.dim() > 2 else cube.unsqueeze(-1)


def _sign(value: int, digits: int) -> str:
    return _SIGNS.get(value, str(value)).rjust(digits)


def _legend(cube: Tensor) -> list[str]:
    said = []
    if bool((cube >= 0).any()):
        said.append("equal numbers share all their statistics")
    if bool((cube == ALONE).any()):
        said.append(f"{_SIGNS[ALONE]} depends on no other value")
    if bool((cube == MASKED).any()):
        said.append(f"{_SIGNS[MASKED]} masked out")
    return ["      " + "; ".join(said)]


def _table(properties: dict[str, str], width: int) -> Iterator[str]:
    for name, value in properties.items():
        yield from _wrapped(name, value, width)


LABEL = 27


def _wrapped(label: str, words: str, width: int) -> list[str]:
    lines = textwrap.wrap(words, width - LABEL) or [""]
    return [f"{label.ljust(LABEL)}{lines[0]}", *(" " * LABEL + line for line in lines[1:])]
