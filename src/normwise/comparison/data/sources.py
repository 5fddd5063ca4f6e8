"""Sources of data: embedded sets, folders, array files, tables, text, and functions of the caller."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..references import name_of
from ..settings import CLASSIFICATION, InputError
from .embedded import DIGITS, MIXED, digits, mixed_digits
from .embedded_tasks import DIABETES, SHAPES, TEXT, WORDS, diabetes, shapes, text, words
from .images import image_folder
from .in_memory import Data, check, fingerprint
from .masks import mask_folder
from .npz_files import npz
from .parquet import parquet_table
from .returned import from_reference, from_splits
from .splits import standardized
from .streams import StreamedData
from .table_files import csv_table, npy_table
from .text import Tokenizer, text_file
from .training_data import TrainingData

TABLES = (".csv", ".npy", ".parquet")
#: Embedded data, and the task that each is for.
EMBEDDED = {
    DIGITS: CLASSIFICATION,
    MIXED: CLASSIFICATION,
    DIABETES: "regression",
    SHAPES: "segmentation",
    WORDS: "labelling",
    TEXT: "language",
}

DataSource = str | Callable[[], Any] | tuple[Any, Any]


def is_folder(source: Any) -> bool:
    """Whether data are a folder of images."""
    return isinstance(source, str) and source not in EMBEDDED and Path(source).is_dir()


def load_data(
    source: DataSource,
    image_size: int,
    target: str | None = None,
    standardize: bool = False,
    batches_by: str | None = None,
    task: str | None = None,
    workers: int | None = None,
    tokenizer: Tokenizer | None = None,
) -> TrainingData:
    """Read embedded data, a folder of images, an `.npz`, `.csv`, `.parquet`, `.npy` or `.txt` file,
    `package.module:function`, a function, or a pair (train, test).

    `target` names the column of a table that is to be predicted. With `standardize` each feature or channel is scaled
    to mean 0 and variance 1 over the training split; embedded data, image folders and `.npz` files always are.
    `batches_by` says how groups of samples are found: a column of a table, an array of an `.npz` file, a pattern for
    the paths in an image folder, or `group` for the third entry of a function's splits. Without `task` the data decide:
    embedded data have a task, the task of a table follows from its target, and all other data are for classification.

    Raises InputError, with what to write instead, for data that are missing, unreadable, not finite or of one class.
    """
    is_table = isinstance(source, str) and source.endswith(TABLES)
    if target is not None and not is_table:
        raise InputError(f"target={target!r}: only a table, .csv, .parquet or .npy, has columns; leave it out.")
    if tokenizer is not None and not (isinstance(source, str) and (source == TEXT or source.endswith(".txt"))):
        raise InputError("tokenizer= goes with a .txt file, or with the data 'text'; leave it out.")
    if workers is not None and (isinstance(workers, bool) or not isinstance(workers, int) or workers < 0):
        raise InputError(f"workers must be how many processes read samples, 0 or more; received {workers!r}.")
    if isinstance(source, str):
        data = _read(source, image_size, target, batches_by, task, workers, tokenizer)
    elif isinstance(source, (tuple, list)):
        data = from_splits(source, "data", batches_by, task or CLASSIFICATION, workers)
    elif callable(source):
        data = from_splits(source(), name_of(source), batches_by, task or CLASSIFICATION, workers)
    else:
        raise InputError(f"data must be a name, a path or a function, received {type(source).__name__}.")
    if isinstance(data, StreamedData):
        if standardize:
            raise InputError(
                "standardize: works on data in memory, not on data read again in each epoch; leave it out."
            )
        return replace(data, name=name_of(source) if not isinstance(source, (tuple, list)) else "data")
    assert isinstance(data, Data)
    check(data)
    if standardize and not data.x_train.is_floating_point():
        raise InputError(f"standardize: the samples of {data.name} are token numbers; leave it out.")
    data = standardized(data) if standardize else data
    name = name_of(source) if not isinstance(source, (tuple, list)) else "data"
    return replace(data, name=name, fingerprint=fingerprint(data))


def _read(
    source: str,
    image_size: int,
    target: str | None,
    key: str | None,
    task: str | None,
    workers: int | None,
    tokenizer: Tokenizer | None,
) -> TrainingData:
    path = Path(source)
    if source not in EMBEDDED and ":" in source and not path.exists():
        return from_reference(source, key, task or CLASSIFICATION, workers)
    if workers is not None:
        raise InputError(f"workers={workers}: {source} is held in memory; leave workers out.")
    if source in EMBEDDED:
        return _embedded(source, key, task, tokenizer)
    if is_folder(source):
        return _folder(path, image_size, key, task or CLASSIFICATION)
    if source.endswith(".npz"):
        return npz(path, key, task or CLASSIFICATION)
    if source.endswith(TABLES) and path.is_file():
        if task not in (None, CLASSIFICATION, "regression"):
            raise InputError(f"task={task!r}: {source} is a table, which is for classification or regression.")
        reader = {".csv": csv_table, ".npy": npy_table, ".parquet": parquet_table}[path.suffix]
        return reader(path, target, key, task)
    if source.endswith(".txt") and path.is_file():
        if task not in (None, "language") or key is not None:
            raise InputError(f"{source} is text, which is for language; leave task and batches_by out.")
        return text_file(path, tokenizer)
    missing = "file" if path.suffix and not path.exists() else "folder"
    raise InputError(
        f"data={source!r}: there is no such {missing}. Write {', '.join(map(repr, EMBEDDED))}, a folder with one "
        "directory per class, an .npz, .csv, .parquet, .npy or .txt file, or package.module:function."
    )


def _embedded(source: str, key: str | None, task: str | None, tokenizer: Tokenizer | None) -> Data:
    if task not in (None, EMBEDDED[source]):
        fitting = next((name for name, of in EMBEDDED.items() if of == task), None)
        raise InputError(
            f"data={source!r} are for {EMBEDDED[source]}, not for {task}; write {fitting!r}, or your own data."
        )
    if source in (DIGITS, MIXED):
        return digits(key) if source == DIGITS else mixed_digits(key)
    if key is not None:
        raise InputError(f"data={source!r} have no groups, so there is no {key!r} to make mini-batches by.")
    if source == TEXT:
        return text(tokenizer)
    return {DIABETES: diabetes, SHAPES: shapes, WORDS: words}[source]()


def _folder(path: Path, image_size: int, key: str | None, task: str) -> Data:
    if task == CLASSIFICATION:
        return image_folder(path, image_size, key)
    if task != "segmentation" or key is not None:
        raise InputError(
            f"{path}: a folder of images is for classification, or, with images/ and masks/, for segmentation without "
            "batches_by."
        )
    return mask_folder(path, image_size)
