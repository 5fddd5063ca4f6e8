"""The target column of a table as classes or as numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from ..groups import Grouping
from ..settings import InputError
from .array_files import numbered
from .in_memory import Data
from .splits import split

HELD_OUT = 0.25
MOST_CLASSES = 0.5
# Without a task, a target with more different whole numbers than this is for regression.
MANY = 20


def with_target(
    path: Path, x: np.ndarray, column: str, y: np.ndarray, grouping: Grouping | None, task: str | None
) -> Data:
    """Features `x` and the target of each line. Without a `task`, text and a few whole numbers are classes, everything
    else is for regression."""
    if not x.shape[1]:
        raise InputError(f"{path}: has no column beside the target.")
    features = torch.from_numpy(in_fp32(x))
    if task == "regression" or (task is None and _are_amounts(y)):
        y = _numbers(y)
        if not np.isfinite(y).all():
            where = int(np.flatnonzero(~np.isfinite(y))[0])
            raise InputError(
                f"{path}: the target {column!r} of sample {where} is {y[where]}; fill it in or leave the line out."
            )
        targets = torch.from_numpy(y).float()[:, None]
        return split(path.name, features, targets, (column,), HELD_OUT, grouping, "regression")
    y = whole(y)
    if y.dtype.kind == "f":
        odd = y[y != np.rint(y)][0]
        raise InputError(
            f"{path}: the classes are not whole numbers, such as {odd:g}; name another target column, or write --task "
            "regression."
        )
    labels, classes = numbered(path, y)
    if len(classes) > MOST_CLASSES * len(y):
        raise InputError(
            f"{path}: the target has {len(classes)} different values in {len(y)} lines, so they are no classes; name "
            "another column, or write --task regression where they are numbers."
        )
    return split(path.name, features, labels, classes, HELD_OUT, grouping)


def in_fp32(x: np.ndarray) -> np.ndarray:
    """Convert to float32. A value out of range becomes infinity; the check for finite values then reports it."""
    with np.errstate(over="ignore"):
        return x.astype(np.float32)


def whole(column: np.ndarray) -> np.ndarray:
    """Convert floating-point columns of whole numbers to integers: in an array of one dtype all columns are floats."""
    are_whole = column.dtype.kind == "f" and bool((column == np.rint(column)).all())
    return column.astype(np.int64) if are_whole else column


def _are_amounts(y: np.ndarray) -> bool:
    """Whether a column holds numbers for regression, not class numbers."""
    try:
        numbers = y.astype(np.float64)
    except (TypeError, ValueError):
        return False
    finite = numbers[np.isfinite(numbers)]
    return y.dtype.kind != "b" and (bool((finite != np.rint(finite)).any()) or len(np.unique(finite)) > MANY)


def _numbers(y: np.ndarray) -> np.ndarray:
    """float64; InputError where the column does not hold numbers."""
    try:
        return y.astype(np.float64)
    except (TypeError, ValueError) as error:
        shown = next((entry for entry in y.tolist() if not _is_number(entry)), y[0])
        raise InputError(
            f"the target of a regression must be a number, and one is {shown!r}; name another column (--target NAME), "
            "or write --task classification."
        ) from error


def _is_number(entry: object) -> bool:
    try:
        float(entry)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return False
    return True
