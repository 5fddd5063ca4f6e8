"""Tables as data: .csv with a line of names, .npy with a column of classes."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from .array_files import loaded, numbered
from .data import Data, split
from .groups import Grouping
from .settings import InputError

HELD_OUT = 0.25
USUAL_TARGETS = ("target", "class", "label", "y")
DELIMITERS = ",;\t"
MOST_CLASSES = 0.5


def csv_table(path: Path, target: str | None, key: str | None = None) -> Data:
    """Features and classes of a .csv file whose first line holds the names; a quarter of each class is held out.

    `target` names the column of the classes; without it the one called target, class, label or y is. `key` names that
    of the groups, which is no feature.
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
    at = names.index(_once(path, names, _target(path, names, target)))
    by = None if key is None else names.index(_once(path, names, _key(path, names, names[at], key)))
    features = [i for i in range(len(names)) if i not in (at, by)]
    x = np.array([[_number(path, names[i], row[i]) for i in features] for row in rows])
    grouping = None if by is None or key is None else Grouping(key, _texts(path, key, [row[by] for row in rows]))
    return _split(path, _in_fp32(x), _texts(path, names[at], [row[at] for row in rows]), grouping)


def npy_table(path: Path, target: str | None, key: str | None = None) -> Data:
    """Features and classes of an array [N, columns]; `target` is the number of the column of the classes, the last
    by default, and its name in a structured array; `key` is the same of the groups, which are no feature."""
    array = loaded(path, "numpy.save")
    if not isinstance(array, np.ndarray):
        raise InputError(f"{path}: holds several arrays under the name of an .npy file; write it with numpy.save.")
    if array.dtype.names:
        at = _target(path, array.dtype.names, target)
        by = None if key is None else _key(path, array.dtype.names, at, key)
        columns = [_column(path, name, array[name]) for name in array.dtype.names if name not in (at, by)]
        x = np.empty((len(array), len(columns)), dtype=np.float32)
        for i, column in enumerate(columns):
            x[:, i] = column
        return _split(path, x, array[at], None if by is None else Grouping(by, array[by]))
    if array.ndim != 2 or array.dtype.kind not in "buif" or array.shape[1] < 2:
        raise InputError(
            f"{path}: holds {array.dtype} of shape {list(array.shape)}; save a table [N, columns] of numbers with the "
            "classes in one column, or x and y in an .npz file."
        )
    numbers = range(array.shape[1])
    at = _number_of_column(path, "target", target or "-1", numbers)
    if key is None:
        return _split(path, _in_fp32(np.delete(array, at, axis=1)), array[:, at], None)
    by = _number_of_column(path, "batches_by", key, numbers)
    if by == at:
        raise InputError(_same_column(path, key))
    x = _in_fp32(np.delete(array, [at, by], axis=1))
    return _split(path, x, array[:, at], Grouping(key, _whole(array[:, by])))


def _in_fp32(x: np.ndarray) -> np.ndarray:
    """What is too large becomes infinity, which is told with its sample."""
    with np.errstate(over="ignore"):
        return x.astype(np.float32)


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


def _key(path: Path, names: Sequence[str], target: str, key: str) -> str:
    """The column of the groups."""
    if key not in names:
        raise InputError(f"{path}: there is no column {key!r} (--batches-by NAME); the columns are {', '.join(names)}.")
    if key == target:
        raise InputError(_same_column(path, key))
    return key


def _same_column(path: Path, key: str) -> str:
    return f"{path}: column {key!r} holds the classes; name another column for batches_by, which tells the groups."


def _texts(path: Path, key: str, entries: Sequence[str]) -> np.ndarray:
    texts = [entry.strip() for entry in entries]
    if "" in texts:
        raise InputError(f"{path}: line {texts.index('') + 2} has no {key!r}; fill it in or leave the line out.")
    return np.array(texts)


def _whole(column: np.ndarray) -> np.ndarray:
    """Whole numbers as such, whatever their type: an array of one type has them as floating point."""
    whole = column.dtype.kind == "f" and bool((column == np.rint(column)).all())
    return column.astype(np.int64) if whole else column


def _target(path: Path, names: Sequence[str], target: str | None) -> str:
    if target is not None and target in names:
        return target
    usual = [name for name in names if name.lower() in USUAL_TARGETS]
    if target is None and len(usual) == 1:
        return usual[0]
    said = "say which column holds the classes" if target is None else f"there is no column {target!r}"
    raise InputError(f"{path}: {said} (--target NAME); the columns are {', '.join(names)}.")


def _split(path: Path, x: np.ndarray, y: np.ndarray, grouping: Grouping | None) -> Data:
    if not x.shape[1]:
        raise InputError(f"{path}: has no column beside the classes.")
    y = _whole(y)
    if y.dtype.kind == "f":
        raise InputError(f"{path}: the classes are not whole numbers, such as {y[0]:g}; name another target column.")
    labels, classes = numbered(path, y)
    if len(classes) > MOST_CLASSES * len(y):
        raise InputError(
            f"{path}: the target has {len(classes)} different values in {len(y)} lines, so they are no classes; name "
            "another column."
        )
    return split(path.name, torch.from_numpy(x), labels, classes, HELD_OUT, grouping)


def _column(path: Path, name: str, column: np.ndarray) -> np.ndarray:
    if column.ndim != 1 or column.dtype.kind not in "buif":
        said = f"{column.dtype} of shape {list(column.shape)}"
        raise InputError(f"{path}: column {name!r} holds {said} where one number per line must be; leave it out.")
    return column


def _number(path: Path, name: str, text: str) -> float:
    if _is_number(text):
        return float(text)
    said = "an empty entry" if not text.strip() else repr(text)
    raise InputError(f"{path}: column {name!r} has {said} where a number must be; fill it in or leave the column out.")


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
