"""Where data come from: the embedded digits, image folders, array files, tables, a function of the caller."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from .data import Data, check, fingerprint, standardized
from .embedded import DIGITS, MIXED, digits, mixed_digits
from .images import image_folder
from .npz_files import npz
from .references import name_of
from .returned import from_function, from_reference
from .settings import InputError
from .table_files import csv_table, npy_table

TABLES = (".csv", ".npy")
EMBEDDED = {DIGITS: digits, MIXED: mixed_digits}


def load_data(
    source: str | Callable[[], Any],
    image_size: int,
    target: str | None = None,
    standardize: bool = False,
    batches_by: str | None = None,
) -> Data:
    """Read `digits`, an image folder, an `.npz`, `.csv` or `.npy` file, `package.module:function` or a function.

    `target` names the column of a table that holds the classes. With `standardize` each feature or channel gets the
    mean 0 and variance 1 over the training split, as digits, image folders and `.npz` files do in any case.
    `batches_by` says what tells the groups of the samples: a column of a table, an array of an `.npz` file, a pattern
    for the paths in an image folder, `group` for the third part of what a function returns.

    Raises InputError, with what to write instead, for what is missing, unreadable, not finite or of one class.
    """
    if target is not None and not (isinstance(source, str) and source.endswith(TABLES)):
        raise InputError(f"target={target!r}: only a table, .csv or .npy, has columns; leave it out.")
    data = _read(source, image_size, target, batches_by)
    check(data)
    data = standardized(data) if standardize else data
    return replace(data, name=name_of(source), fingerprint=fingerprint(data))


def _read(source: str | Callable[[], Any], image_size: int, target: str | None, key: str | None) -> Data:
    if not isinstance(source, str):
        if not callable(source):
            raise InputError(f"data must be a name, a path or a function, received {type(source).__name__}.")
        return from_function(source, name_of(source), key)
    if source in EMBEDDED:
        return EMBEDDED[source](key)
    path = Path(source)
    if path.is_dir():
        return image_folder(path, image_size, key)
    if source.endswith(".npz"):
        return npz(path, key)
    if source.endswith(TABLES) and path.is_file():
        return csv_table(path, target, key) if source.endswith(".csv") else npy_table(path, target, key)
    if ":" in source and not path.exists():
        return from_reference(source, key)
    missing = "file" if path.suffix and not path.exists() else "folder"
    raise InputError(
        f"data={source!r}: there is no such {missing}. Write {DIGITS!r} or {MIXED!r}, a folder with one directory "
        "per class, an .npz, .csv or .npy file, or package.module:function."
    )
