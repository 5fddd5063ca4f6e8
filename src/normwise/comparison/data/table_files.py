"""Tables as data: .csv with a line of names, .npy with a column of targets."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..groups import Grouping
from ..settings import InputError
from .array_files import loaded
from .in_memory import Data
from .table_targets import whole, with_target

USUAL_TARGETS = ("target", "class", "label", "y")
DELIMITERS = ",;\t"


def csv_table(path: Path, target: str | None, key: str | None = None, task: str | None = None) -> Data:
    """Features and target of a .csv file whose first line holds the names; a quarter (of each class) is held out.

    `target` names the column of the target, by default the one called target, class, label or y. `key` names the column
    of the groups, which is not a feature. `task` says whether the target holds classes or numbers.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read as text ({type(error).__name__}); save it as UTF-8.") from error
    delimiter = max(DELIMITERS, key=lines[0].count) if lines else ","
    table = [row for row in csv.reader(lines, delimiter=delimiter) if row]
    if len(table) < 2:
        raise InputError(f"{path}: holds no lines of data; the first line holds the names of the columns.")
    names, rows = [name.strip() for name in table[0]], table[1:]
    if all(map(_is_number, names)):
        raise InputError(f"{path}: the first line holds numbers; write the names of the columns there.")
    ragged = next((i for i, row in enumerate(rows, start=2) if len(row) != len(names)), None)
    if ragged is not None:
        raise InputError(
            f"{path}: line {ragged} has {len(rows[ragged - 2])} entries, the first has {len(names)} names."
        )
    at = names.index(column_of_target(path, names, target))
    by = None if key is None else names.index(column_of_groups(path, names, names[at], key))
    features = [i for i in range(len(names)) if i not in (at, by)]
    x = np.array([[_number(path, names[i], row[i]) for i in features] for row in rows])
    grouping = None if by is None or key is None else Grouping(key, _texts(path, key, [row[by] for row in rows]))
    return with_target(path, x, names[at], _texts(path, names[at], [row[at] for row in rows]), grouping, task)


def npy_table(path: Path, target: str | None, key: str | None = None, task: str | None = None) -> Data:
    """Features and target of an array [N, columns]. `target` is the number of the target's column (by default the
    last), or its name in a structured array; `key` is that of the column of groups, which is not a feature."""
    array = loaded(path, "numpy.save")
    if not isinstance(array, np.ndarray):
        raise InputError(f"{path}: holds several arrays under the name of an .npy file; write it with numpy.save.")
    if array.dtype.names:
        at = column_of_target(path, array.dtype.names, target)
        by = None if key is None else column_of_groups(path, array.dtype.names, at, key)
        columns = [_column(path, name, array[name]) for name in array.dtype.names if name not in (at, by)]
        x = np.empty((len(array), len(columns)), dtype=np.float32)
        for i, column in enumerate(columns):
            x[:, i] = column
        return with_target(path, x, at, array[at], None if by is None else Grouping(by, array[by]), task)
    if array.ndim != 2 or array.dtype.kind not in "buif" or array.shape[1] < 2:
        raise InputError(
            f"{path}: holds {array.dtype} of shape {list(array.shape)}; save a table [N, columns] of numbers with the "
            "target in one column, or x and y in an .npz file."
        )
    numbers = range(array.shape[1])
    at = _number_of_column(path, "target", target or "-1", numbers)
    if key is None:
        return with_target(path, np.delete(array, at, axis=1), str(at), array[:, at], None, task)
    by = _number_of_column(path, "batches_by", key, numbers)
    if by == at:
        raise InputError(_same_column(path, key))
    x = np.delete(array, [at, by], axis=1)
    return with_target(path, x, str(at), array[:, at], Grouping(key, whole(array[:, by])), task)


def _once(path: Path, names: Sequence[str], name: str) -> str:
    if names.count(name) > 1:
        raise InputError(f"{path}: {names.count(name)} columns are called {name!r}; give each its own name.")
    return name


def _number_of_column(path: Path, option: str, text: str, numbers: range) -> int:
    try:
        return numbers[int(text)]
    except (ValueError, IndexError) as error:
        raise InputError(
            f"{option}={text!r}: {path} has the columns 0 to {numbers[-1]}; write the number of one."
        ) from error


def column_of_groups(path: Path, names: Sequence[str], target: str, key: str) -> str:
    """The name of the column of the groups."""
    if key not in names:
        raise InputError(f"{path}: there is no column {key!r} (--batches-by NAME); the columns are {', '.join(names)}.")
    if key == target:
        raise InputError(_same_column(path, key))
    return _once(path, names, key)


def _same_column(path: Path, key: str) -> str:
    return f"{path}: column {key!r} holds the target; name another column, the one with the groups, for batches_by."


def _texts(path: Path, key: str, entries: Sequence[str]) -> np.ndarray:
    texts = [entry.strip() for entry in entries]
    if "" in texts:
        raise InputError(f"{path}: line {texts.index('') + 2} has no {key!r}; fill it in or leave the line out.")
    return np.array(texts)


def column_of_target(path: Path, names: Sequence[str], target: str | None) -> str:
    """The name of the column of the target."""
    if target is not None and target in names:
        return _once(path, names, target)
    usual = [name for name in names if name.lower() in USUAL_TARGETS]
    if target is None and len(usual) == 1:
        return usual[0]
    problem = "say which column holds the target" if target is None else f"there is no column {target!r}"
    raise InputError(f"{path}: {problem} (--target NAME); the columns are {', '.join(names)}.")


def _column(path: Path, name: str, column: np.ndarray) -> np.ndarray:
    if column.ndim != 1 or column.dtype.kind not in "buif":
        received = f"{column.dtype} of shape {list(column.shape)}"
        raise InputError(f"{path}: column {name!r} holds {received} where one number per line must be; leave it out.")
    return column


def _number(path: Path, name: str, text: str) -> float:
    if _is_number(text):
        return float(text)
    received = "an empty entry" if not text.strip() else repr(text)
    raise InputError(
        f"{path}: column {name!r} has {received} where a number must be; fill it in or leave the column out."
    )


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
