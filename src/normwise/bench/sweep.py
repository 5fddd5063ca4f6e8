"""All cells of a grid, one after the other; finished ones are on disk and are not measured again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from . import environment
from .cases import COLUMNS, Case
from .measure import OK, RESULTS, Options, measure
from .regimes import here
from .storage import Row, Rows

ALL_COLUMNS = (*COLUMNS, *RESULTS, "rounds", *environment.COLUMNS, environment.DATE)

#: Called after each cell with its row, the number of finished cells and the number of all cells.
Listener = Callable[[Row, int, int], None]


def run(
    cases: Sequence[Case],
    options: Options,
    path: Path,
    *,
    clock: str = "wall",
    call: Callable[..., Any] = here,
    listen: Listener | None = None,
) -> list[Row]:
    """Measure every case that the CSV file does not have yet for this machine, commit and settings.

    ``call`` is given a memory regime, a function and its arguments, see `regimes.Processes`. Returns the rows of
    the cases, in their order. Ctrl-C loses at most the cell that is being measured.
    """
    about = environment.environment(options.device, clock, options.backend)
    with Rows(path, ALL_COLUMNS) as file:
        known = {_key(row): row for row in file.read() if is_of(row, about) and _is_whole(row, options)}
        rows: list[Row] = []
        for case in cases:
            columns = {name: str(value) for name, value in case.columns().items()}
            row = known.get(_key(columns))
            if row is None:
                row = file.append(call(case.memory, _measured, case, options) | about)
            rows.append(row)
            if listen is not None:
                listen(row, len(rows), len(cases))
        return rows


def _measured(case: Case, options: Options) -> dict[str, Any]:
    with threads(case.threads):
        found = measure(case, options)
    return case.columns() | found | {"rounds": options.rounds, environment.DATE: environment.today()}


def is_of(row: Row, about: dict[str, str]) -> bool:
    """Whether a row was measured with these versions, on this machine, with these settings."""
    return all(row[name] == text for name, text in about.items())


def _is_whole(row: Row, options: Options) -> bool:
    """Whether a row also has the columns of the compilers that are requested now."""
    return row["status"] != OK or all(row[f"{name}_ms"] for name in options.compiled)


def _key(row: Row) -> tuple[str, ...]:
    return tuple(row[name] for name in COLUMNS)


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Set torch's number of threads inside the block; 0 leaves it as it is."""
    before = torch.get_num_threads()
    if count:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
