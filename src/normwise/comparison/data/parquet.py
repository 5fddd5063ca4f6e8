"""Tables in .parquet files, through pandas."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ..contestants.models import first_line
from ..groups import Grouping
from ..settings import InputError
from .in_memory import Data
from .table_files import column_of_groups, column_of_target
from .table_targets import with_target


def parquet_table(path: Path, target: str | None, key: str | None, task: str | None) -> Data:
    """Features and target of a .parquet file, as in `table_files.csv_table`.

    A target column of pandas' categories is for classification. Raises InputError if pandas or pyarrow is not
    installed.
    """
    table = _read(path)
    names = [str(name) for name in table.columns]
    table.columns = names
    at = column_of_target(path, names, target)
    by = None if key is None else column_of_groups(path, names, at, key)
    targets = _entries(path, at, table[at])
    features = [_feature(path, name, table[name]) for name in names if name not in (at, by)]
    x = np.stack(features, 1) if features else np.empty((len(table), 0))
    grouping = None if by is None else Grouping(by, _entries(path, by, table[by]))
    return with_target(path, x, at, targets, grouping, task)


def _read(path: Path) -> Any:
    try:
        import pandas  # pyright: ignore[reportMissingImports]
    except ModuleNotFoundError as error:
        raise InputError(
            f"{path}: .parquet files are read with pandas, which is not installed; run `pip install pandas pyarrow`, "
            "or save a .csv file."
        ) from error
    try:
        table = pandas.read_parquet(path)
    except ImportError as error:
        raise InputError(f"{path}: pandas reads .parquet files with pyarrow; run `pip install pyarrow`.") from error
    except Exception as error:  # pyarrow raises its own classes
        raise InputError(f"{path}: not a readable .parquet file ({first_line(error)})") from error
    if not len(table):
        raise InputError(f"{path}: holds no lines of data.")
    return table


def _feature(path: Path, name: str, column: Any) -> np.ndarray:
    if column.dtype.kind not in "buif":
        raise InputError(
            f"{path}: column {name!r} holds {column.dtype} where a number must be; leave it out, or make numbers of it."
        )
    if column.isna().any():
        raise InputError(
            f"{path}: column {name!r} has no number in {int(column.isna().sum())} of {len(column)} lines; fill them in "
            "or leave the column out."
        )
    return column.to_numpy(dtype=np.float64)


def _entries(path: Path, name: str, column: Any) -> np.ndarray:
    """Numbers as they are, everything else as text."""
    missing = np.flatnonzero(column.isna().to_numpy())
    if len(missing):
        raise InputError(f"{path}: line {int(missing[0]) + 1} has no {name!r}; fill it in or leave the line out.")
    if column.dtype.kind in "buif":
        return column.to_numpy(dtype=np.float64 if column.dtype.kind == "f" else np.int64)
    return np.array([str(entry) for entry in column])
