"""NumPy's files, and labels of any kind as class numbers."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..settings import InputError


def loaded(path: Path, writer: str) -> np.ndarray | dict[str, np.ndarray]:
    """The array of an .npy file, the arrays of an .npz file by name.

    Raises InputError if the file is missing, cut off, damaged, or holds Python objects; the message names `writer`, the
    NumPy function that writes such a file.
    """
    if not path.is_file():
        raise InputError(f"data={str(path)!r}: there is no such file.")
    try:
        with path.open("rb") as handle:
            found = np.load(handle, allow_pickle=False)
            return found if isinstance(found, np.ndarray) else {name: found[name] for name in found.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError) as error:
        raise InputError(
            f"{path}: not a readable {path.suffix} file ({error}); it may be cut off: write it again with {writer}."
        ) from error


def numbered(path: Path, y: np.ndarray) -> tuple[Tensor, tuple[str, ...]]:
    """Labels as numbers from 0, and the name of each class."""
    if y.dtype.kind not in "buiUS":
        raise InputError(f"{path}: labels are of type {y.dtype}; save integers or names, one per sample.")
    names, index = np.unique(y, return_inverse=True)
    return torch.from_numpy(index).long(), tuple(str(name) for name in names)
