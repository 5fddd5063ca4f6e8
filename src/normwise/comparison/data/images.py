"""An image folder as tensors: one directory per class."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ...image_files import UnreadableError, head_of, opened, pictures_in
from ..groups import groups_of
from ..settings import InputError
from .in_memory import Data
from .path_groups import grouping_of
from .splits import split_and_standardize, standardized

HELD_OUT = 0.25
HELD_OUT_NAMES = ("test", "val", "valid", "validation")
NAMES_SHOWN = 5


def image_folder(folder: Path, size: int, key: str | None = None) -> Data:
    """Images of `folder/<class>/**`, resized to size×size; a quarter of each class is held out.

    Where the folder holds `train` and one of `test`, `val`, `valid`, `validation`, these are the two splits.
    If all files are grey, so are the images; otherwise all are RGB. Each channel is standardized. `key` is a regular
    expression that is searched in each path below the directory of its class, as in "site-a/07.png": its first group,
    or the whole match if it has no group, is the name of the sample's group.
    """
    train, test = _splits(folder)
    classes = tuple(train)
    paths = [(path, classes.index(name)) for part in (train, test) for name, files in part.items() for path in files]
    grouping = None
    if key is not None:
        grouping = grouping_of([_below_class(folder, path, bool(test)) for path, _ in paths], key)
    x = read_images([path for path, _ in paths], size)
    y = torch.tensor([label for _, label in paths])
    if not test:
        return split_and_standardize(folder.name, x, y, classes, HELD_OUT, grouping)
    cut = sum(len(files) for files in train.values())
    data = standardized(Data(folder.name, x[:cut], y[:cut], x[cut:], y[cut:], classes))
    order = torch.arange(len(x))
    return replace(data, groups=groups_of(folder.name, grouping, order[:cut], order[cut:]))


def _below_class(folder: Path, path: Path, in_splits: bool) -> str:
    """The path below the directory of its class: "site-a/07.png"."""
    return Path(*path.relative_to(folder).parts[2 if in_splits else 1 :]).as_posix()


class Glance(NamedTuple):
    """Read from the file headers of a folder: its classes, grey or colour, and the median of the shorter sides."""

    classes: int
    channels: int
    side: int


def glance(folder: Path) -> Glance:
    """The `Glance` of a folder, without decoding any image; files that cannot be read are skipped."""
    train, _ = _splits(folder)
    sides, channels = [], 1
    for path in (path for files in train.values() for path in files):
        with suppress(UnreadableError), head_of(path) as image:
            sides.append(min(image.size))
            channels = channels if _is_grey(image.mode) else 3
    return Glance(len(train), channels, round(median(sides)) if sides else 1)


def _splits(folder: Path) -> tuple[dict[str, list[Path]], dict[str, list[Path]]]:
    """The files of each class for training and, if the folder holds two splits, for the test."""
    held_out = next((folder / name for name in HELD_OUT_NAMES if (folder / name).is_dir()), None)
    if not (folder / "train").is_dir() or held_out is None:
        return _listed(folder), {}
    train, test = _listed(folder / "train"), _listed(held_out)
    unknown = sorted(set(test) - set(train))
    if unknown:
        raise InputError(f"{held_out}: the classes {', '.join(unknown)} are not in {folder / 'train'}.")
    return train, test


def _is_grey(mode: str) -> bool:
    return mode in ("1", "L") or mode.startswith(("I", "F"))


def _listed(folder: Path) -> dict[str, list[Path]]:
    found = {
        directory.name: pictures_in(directory)
        for directory in sorted(folder.iterdir())
        if directory.is_dir() and not directory.name.startswith(".")
    }
    if not found:
        raise InputError(f"{folder}: holds no directories; put the images of each class into a directory of its own.")
    empty = [name for name, files in found.items() if not files]
    if empty:
        raise InputError(f"{folder}: no image in {', '.join(empty)}; remove the directory or put images into it.")
    if len(found) == 1:
        raise InputError(f"{folder}: {next(iter(found))!r} is the only class; a comparison needs at least two.")
    return found


def read_images(paths: list[Path], size: int) -> Tensor:
    """float32 `[N, C, size, size]` from 0 to 1; InputError that names what cannot be read."""
    arrays, unreadable = [], []
    for path in paths:
        try:
            arrays.append(_pixels(path, size))
        except UnreadableError as error:
            unreadable.append(f"{path} ({error.reason})")
    if unreadable:
        more = f" and {len(unreadable) - NAMES_SHOWN} more" if len(unreadable) > NAMES_SHOWN else ""
        raise InputError(
            f"{len(unreadable)} of {len(paths)} images cannot be read: {', '.join(unreadable[:NAMES_SHOWN])}{more}. "
            "Remove or replace them."
        )
    channels = max(array.shape[0] for array in arrays)
    return torch.from_numpy(np.stack([np.broadcast_to(array, (channels, size, size)) for array in arrays]))


def _pixels(path: Path, size: int) -> np.ndarray:
    """float32 `[C, size, size]`; 1 channel for grey files, 3 for all others."""
    from PIL import Image

    with opened(path) as image:
        if image.mode.startswith(("I", "F")):
            # More than 8 bits: convert("L") would clip them.
            grey = Image.fromarray(np.asarray(image, dtype=np.float32))
        elif image.mode in ("1", "L"):
            grey = image.convert("L")
        else:
            rgb = image.convert("RGB").resize((size, size), Image.Resampling.BILINEAR)
            return np.asarray(rgb, dtype=np.float32).transpose(2, 0, 1) / 255
        scale = 65535 if image.mode.startswith("I") else 1 if image.mode == "F" else 255
        return np.asarray(grey.resize((size, size), Image.Resampling.BILINEAR), dtype=np.float32)[None] / scale
