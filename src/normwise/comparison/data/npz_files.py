"""Arrays of an .npz file as data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..groups import Grouping, groups_of
from ..settings import InputError
from .array_files import loaded, numbered
from .in_memory import Data
from .samples import classes_of, samples_of
from .splits import split, split_and_standardize, standardized

HELD_OUT = 0.25
CHANNEL_COUNTS = (1, 3, 4)

Arrays = Mapping[str, np.ndarray]


def npz(path: Path, key: str | None, task: str = "classification") -> Data:
    """Arrays `x_train, y_train, x_test, y_test`, or `x, y` of which a quarter is held out; for language x alone.

    `x[N, H, W]` are grey images. `x[N, a, b, c]` is read as N×H×W×C where the last axis has 1, 3 or 4 entries and
    axis 1 has not, otherwise as N×C×H×W. `x[N, C]` are features. Each channel is standardized. `key` names the array
    of the groups; `key_train` and `key_test` do if the splits are given. For tasks other than classification x and y
    have the shapes of that task, and token numbers are not standardized.
    """
    arrays = loaded(path, "numpy.savez")
    if isinstance(arrays, np.ndarray):
        raise InputError(f"{path}: holds a single array under the name of an .npz file; write it with numpy.savez.")
    if task != "classification":
        return _of_task(path, arrays, key, task)
    if {"x_train", "y_train", "x_test", "y_test"} <= set(arrays):
        return _given_splits(path, arrays, key)
    if {"x", "y"} <= set(arrays):
        labels, classes = numbered(path, arrays["y"].ravel())
        x = _maps(path, arrays["x"])
        if len(x) != len(labels):
            raise InputError(f"{path}: x has {len(x)} samples and y {len(labels)} labels; give one label per sample.")
        grouping = None if key is None else Grouping(key, _array(path, arrays, key))
        return split_and_standardize(path.name, x, labels, classes, HELD_OUT, grouping)
    raise InputError(
        f"{path}: holds {', '.join(sorted(arrays)) or 'nothing'}; save it with x_train, y_train, x_test and y_test, "
        "or with x and y."
    )


def _of_task(path: Path, arrays: Arrays, key: str | None, task: str) -> Data:
    """x and y as a task other than classification takes them."""
    names = ("x",) if task == "language" else ("x", "y")
    given = all(f"{name}_{part}" in arrays for name in names for part in ("train", "test"))
    if not given and not all(name in arrays for name in names):
        raise InputError(
            f"{path}: holds {', '.join(sorted(arrays)) or 'nothing'}; for {task} save it with {' and '.join(names)}, "
            "or with the endings _train and _test."
        )
    ends = ("_train", "_test") if given else ("",)
    parts = [
        samples_of(path.name, task, _samples(path, arrays[f"x{end}"], task), _targets(path, arrays.get(f"y{end}")))
        for end in ends
    ]
    classes = classes_of(task, *parts)
    if given and key is not None:
        raise InputError(f"{path}: batches_by={key!r} goes with x and y for {task}, not with given splits.")
    if given:
        data = Data(path.name, *parts[0], *parts[1], classes, task=task)
        return standardized(data) if data.x_train.is_floating_point() else data
    (x, y), grouping = parts[0], None if key is None else Grouping(key, _array(path, arrays, key))
    cut = split_and_standardize if x.is_floating_point() else split
    return cut(path.name, x, y, classes, HELD_OUT, grouping, task)


def _samples(path: Path, x: np.ndarray, task: str) -> Tensor:
    """Token numbers, features of tokens, maps with their channels, or features."""
    if x.dtype.kind not in "buif":
        raise InputError(f"{path}: x is of type {x.dtype}; save numbers.")
    if task in ("labelling", "language"):
        return torch.from_numpy(np.ascontiguousarray(x))
    if task == "segmentation" and x.ndim == 5:
        return torch.from_numpy(np.ascontiguousarray(x, dtype=np.float32))
    return _maps(path, x)


def _targets(path: Path, y: np.ndarray | None) -> Tensor | None:
    if y is not None and y.dtype.kind not in "buif":
        raise InputError(f"{path}: y is of type {y.dtype}; save numbers.")
    return None if y is None else torch.from_numpy(np.ascontiguousarray(y))


def _given_splits(path: Path, arrays: Arrays, key: str | None) -> Data:
    labels, classes = numbered(path, np.concatenate([arrays["y_train"].ravel(), arrays["y_test"].ravel()]))
    cut = arrays["y_train"].size
    x_train, x_test = _maps(path, arrays["x_train"]), _maps(path, arrays["x_test"])
    data = standardized(Data(path.name, x_train, labels[:cut], x_test, labels[cut:], classes))
    if key is None:
        return data
    named = np.concatenate([_array(path, arrays, f"{key}_{part}") for part in ("train", "test")])
    order = torch.arange(len(labels))
    return replace(data, groups=groups_of(path.name, Grouping(key, named), order[:cut], order[cut:]))


def _array(path: Path, arrays: Arrays, name: str) -> np.ndarray:
    if name not in arrays:
        raise InputError(f"{path}: has no array {name!r}, the one named by batches_by; it holds {', '.join(arrays)}.")
    return (
        arrays[name].ravel() if arrays[name].ndim > 1 and arrays[name].shape[0] == arrays[name].size else arrays[name]
    )


def _maps(path: Path, x: np.ndarray) -> Tensor:
    if x.dtype.kind not in "buif":
        raise InputError(f"{path}: x is of type {x.dtype}; save numbers.")
    tensor = torch.from_numpy(np.ascontiguousarray(x, dtype=np.float32))
    if tensor.dim() == 3:
        return tensor.unsqueeze(1)
    if tensor.dim() == 4 and tensor.shape[3] in CHANNEL_COUNTS and tensor.shape[1] not in CHANNEL_COUNTS:
        return tensor.permute(0, 3, 1, 2).contiguous()
    if tensor.dim() not in (2, 4):
        raise InputError(f"{path}: x has shape {list(x.shape)}; save [N, H, W], [N, H, W, C], [N, C, H, W] or [N, C].")
    return tensor
