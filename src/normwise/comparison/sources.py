"""Where data come from: the embedded digits, image folders, .npz files, a function of the caller."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .array_files import loaded, numbered
from .data import Data, check, fingerprint, split_and_standardize, standardized
from .images import image_folder
from .models import first_line
from .references import load_object, name_of
from .settings import InputError
from .table_files import csv_table, npy_table

HELD_OUT = 0.25
# A third trains: small enough for the default sweep, hard enough that normalizers differ. The rest gives the
# held-out accuracy a standard error of half a point.
DIGITS_HELD_OUT = 2 / 3
CHANNEL_COUNTS = (1, 3, 4)
TABLES = (".csv", ".npy")


def load_data(
    source: str | Callable[[], Any], image_size: int, target: str | None = None, standardize: bool = False
) -> Data:
    """Read `digits`, an image folder, an `.npz`, `.csv` or `.npy` file, `package.module:function` or a function.

    `target` names the column of a table that holds the classes. With `standardize` each feature or channel gets the
    mean 0 and variance 1 over the training split, as digits, image folders and `.npz` files do in any case.

    Raises InputError, with what to write instead, for what is missing, unreadable, not finite or of one class.
    """
    if target is not None and not (isinstance(source, str) and source.endswith(TABLES)):
        raise InputError(f"target={target!r}: only a table, .csv or .npy, has columns; leave it out.")
    data = _read(source, image_size, target)
    check(data)
    data = standardized(data) if standardize else data
    return replace(data, name=name_of(source), fingerprint=fingerprint(data))


def _read(source: str | Callable[[], Any], image_size: int, target: str | None) -> Data:
    if not isinstance(source, str):
        if not callable(source):
            raise InputError(f"data must be a name, a path or a function, received {type(source).__name__}.")
        return from_function(source, name_of(source))
    if source == "digits":
        return digits()
    path = Path(source)
    if path.is_dir():
        return image_folder(path, image_size)
    if source.endswith(".npz"):
        return npz(path)
    if source.endswith(TABLES) and path.is_file():
        return csv_table(path, target) if source.endswith(".csv") else npy_table(path, target)
    if ":" in source and not path.exists():
        return from_reference(source)
    missing = "file" if path.suffix and not path.exists() else "folder"
    raise InputError(
        f"data={source!r}: there is no such {missing}. Write 'digits', a folder with one directory per class, an .npz, "
        ".csv or .npy file, or package.module:function."
    )


def digits() -> Data:
    """scikit-learn's 1797 handwritten digits, 8×8 grey; two thirds of each class are held out."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    x = torch.from_numpy(images).float().reshape(-1, 1, 8, 8)
    classes = tuple(str(digit) for digit in range(10))
    return split_and_standardize("digits", x, torch.from_numpy(labels).long(), classes, DIGITS_HELD_OUT)


def npz(path: Path) -> Data:
    """Arrays `x_train, y_train, x_test, y_test`, or `x, y` of which a quarter is held out.

    `x[N, H, W]` are grey images. `x[N, a, b, c]` is read as N×H×W×C where the last axis has 1, 3 or 4 entries and
    axis 1 has not, otherwise as N×C×H×W. `x[N, C]` are features. Each channel is standardized.
    """
    arrays = loaded(path, "numpy.savez")
    if isinstance(arrays, np.ndarray):
        raise InputError(f"{path}: holds a single array under the name of an .npz file; write it with numpy.savez.")
    if {"x_train", "y_train", "x_test", "y_test"} <= set(arrays):
        labels, classes = numbered(path, np.concatenate([arrays["y_train"].ravel(), arrays["y_test"].ravel()]))
        cut = arrays["y_train"].size
        x_train, x_test = _maps(path, arrays["x_train"]), _maps(path, arrays["x_test"])
        return standardized(Data(path.name, x_train, labels[:cut], x_test, labels[cut:], classes))
    if {"x", "y"} <= set(arrays):
        labels, classes = numbered(path, arrays["y"].ravel())
        x = _maps(path, arrays["x"])
        if len(x) != len(labels):
            raise InputError(f"{path}: x has {len(x)} samples and y {len(labels)} labels; give one label per sample.")
        return split_and_standardize(path.name, x, labels, classes, HELD_OUT)
    raise InputError(
        f"{path}: holds {', '.join(sorted(arrays)) or 'nothing'}; save it with x_train, y_train, x_test and y_test, "
        "or with x and y."
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


def from_reference(reference: str) -> Data:
    """Data of the function `package.module:function`."""
    function = load_object(reference)
    if not callable(function):
        raise InputError(f"{reference!r} is not a function; it must return (train, test).")
    return from_function(function, reference)


def from_function(function: Callable[[], Any], name: str) -> Data:
    """Data of a function that returns (train, test), each a torch dataset or a pair (x, y) of tensors."""
    made = function()
    if not isinstance(made, (tuple, list)) or len(made) != 2:
        raise InputError(f"{name} must return (train, test), it returned {type(made).__name__}.")
    (x_train, y_train), (x_test, y_test) = _pair(name, made[0]), _pair(name, made[1])
    highest = int(y_train.max()) if y_train.numel() else 0
    classes = tuple(str(label) for label in range(highest + 1))
    return Data(name, x_train, y_train, x_test, y_test, classes)


def _pair(name: str, split: Any) -> tuple[Tensor, Tensor]:
    if isinstance(split, (tuple, list)) and len(split) == 2 and not isinstance(split[0], (tuple, list)):
        x, y = _tensor(name, "samples", split[0]), _tensor(name, "labels", split[1])
    else:
        x, y = _stacked(name, split)
    if not x.is_floating_point():
        raise InputError(f"{name}: samples are of type {x.dtype}; return floating point, such as x.float() / 255.")
    if y.is_floating_point() or y.is_complex():
        raise InputError(f"{name}: labels are of type {y.dtype}; return integers, one class number per sample.")
    if x.dim() < 2:
        raise InputError(f"{name}: samples have shape {list(x.shape)}; return [N, C, H, W], [N, C, L] or [N, C].")
    return x.detach().float().cpu(), y.detach().long().cpu()


def _tensor(name: str, what: str, part: Any) -> Tensor:
    """A dense tensor with values, from whatever torch takes for one."""
    try:
        tensor = torch.as_tensor(part)
    except (TypeError, ValueError, RuntimeError) as error:
        kind = type(part).__name__
        raise InputError(f"{name}: {what} are {kind}, which is no tensor; return tensors or NumPy arrays.") from error
    if tensor.layout is not torch.strided or tensor.is_nested:
        kind = "a nested tensor" if tensor.is_nested else "a sparse tensor"
        raise InputError(f"{name}: {what} are {kind}; return dense ones, such as x.to_dense().")
    if tensor.is_meta or tensor.is_quantized:
        raise InputError(f"{name}: {what} are a tensor without values or a quantized one; return plain numbers.")
    return tensor


def _stacked(name: str, split: Iterable[Any]) -> tuple[Tensor, Tensor]:
    try:
        items = [split[i] for i in range(len(split))]  # type: ignore[index, arg-type]
    except TypeError as error:
        raise InputError(
            f"{name}: a split is a torch dataset with a length or a pair (x, y) of tensors, "
            f"received {type(split).__name__}."
        ) from error
    if not items:
        raise InputError(f"{name}: a split is empty; give it at least one sample.")
    try:
        samples, labels = [item[0] for item in items], [int(item[1]) for item in items]
    except (TypeError, ValueError, IndexError, KeyError, RuntimeError) as error:
        raise InputError(
            f"{name}: the items of a split are pairs (x, label) with a class number as label, received "
            f"{type(items[0]).__name__} ({first_line(error)})"
        ) from error
    if not all(isinstance(sample, Tensor) for sample in samples):
        raise InputError(f"{name}: samples are {type(samples[0]).__name__}; let the dataset return tensors.")
    samples = [_tensor(name, "samples", sample) for sample in samples]
    if len({sample.shape for sample in samples}) > 1:
        raise InputError(f"{name}: samples differ in shape; resize them to one shape.")
    return torch.stack(samples), torch.tensor(labels)
