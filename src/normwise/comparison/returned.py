"""Data that a function of the caller returns."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from .data import Data
from .groups import Grouping, groups_of
from .models import first_line
from .references import load_object
from .settings import InputError

GROUP = "group"


def from_reference(reference: str, key: str | None) -> Data:
    """Data of the function `package.module:function`."""
    function = load_object(reference)
    if not callable(function):
        raise InputError(f"{reference!r} is not a function; it must return (train, test).")
    return from_function(function, reference, key)


def from_function(function: Callable[[], Any], name: str, key: str | None) -> Data:
    """Data of a function that returns (train, test), each a torch dataset or a pair (x, y) of tensors, in which a third
    entry is the group of each sample."""
    if key not in (None, GROUP):
        raise InputError(
            f"batches_by={key!r}: the groups of {name} are the third entry of each split, (x, y, group); write "
            f"{GROUP!r}."
        )
    made = function()
    if not isinstance(made, (tuple, list)) or len(made) != 2:
        raise InputError(f"{name} must return (train, test), it returned {type(made).__name__}.")
    train, test = (_checked(name, split, key is not None) for split in made)
    highest = int(train.y.max()) if train.y.numel() else 0
    classes = tuple(str(label) for label in range(highest + 1))
    data = Data(name, train.x, train.y, test.x, test.y, classes)
    if train.groups is None or test.groups is None or key is None:
        return data
    numbers = [len(train.groups), len(test.groups)]
    if numbers != [len(train.x), len(test.x)]:
        raise InputError(
            f"{name}: the splits have {len(train.x)} and {len(test.x)} samples, but {numbers[0]} and {numbers[1]} "
            "groups; give one group per sample."
        )
    order = torch.arange(sum(numbers))
    grouping = Grouping(key, np.concatenate([train.groups, test.groups]))
    return replace(data, groups=groups_of(name, grouping, order[: numbers[0]], order[numbers[0] :]))


class _Split(NamedTuple):
    x: Tensor
    y: Tensor
    groups: np.ndarray | None


def _checked(name: str, split: Any, grouped: bool) -> _Split:
    """A split as tensors, and the groups of its samples where they are asked for."""
    if isinstance(split, (tuple, list)) and len(split) in (2, 3) and not isinstance(split[0], (tuple, list)):
        x, y = _tensor(name, "samples", split[0]), _tensor(name, "labels", split[1])
        groups = _groups(name, split[2] if len(split) == 3 else None) if grouped else None
    else:
        x, y, groups = _stacked(name, split, grouped)
    if not x.is_floating_point():
        raise InputError(f"{name}: samples are of type {x.dtype}; return floating point, such as x.float() / 255.")
    if y.is_floating_point() or y.is_complex():
        raise InputError(f"{name}: labels are of type {y.dtype}; return integers, one class number per sample.")
    if x.dim() < 2:
        raise InputError(f"{name}: samples have shape {list(x.shape)}; return [N, C, H, W], [N, C, L] or [N, C].")
    return _Split(x.detach().float().cpu(), y.detach().long().cpu(), groups)


def _groups(name: str, given: Any) -> np.ndarray:
    if given is None:
        raise InputError(
            f"{name}: batches_by={GROUP!r} asks for the group of each sample; return splits (x, y, group), or data "
            "sets of (x, label, group)."
        )
    if isinstance(given, Tensor):
        return _tensor(name, "groups", given).detach().cpu().numpy()
    try:
        groups = np.asarray(given)
    except ValueError as error:
        raise InputError(
            f"{name}: groups are lists of different lengths; give one number or name per sample."
        ) from error
    if groups.ndim == 0:
        raise InputError(f"{name}: groups are {given!r}; give one number or name per sample.")
    return groups


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


def _stacked(name: str, split: Iterable[Any], grouped: bool) -> tuple[Tensor, Tensor, np.ndarray | None]:
    try:
        items = [split[i] for i in range(len(split))]  # type: ignore[index, arg-type]
    except (TypeError, KeyError) as error:
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
    groups = _groups(name, _third_entries(items)) if grouped else None
    return torch.stack(samples), torch.tensor(labels), groups


def _third_entries(items: list[Any]) -> list[Any] | None:
    """The groups of single samples; None where one has none."""
    if any(len(item) < 3 for item in items):
        return None
    return [item[2].item() if isinstance(item[2], Tensor) and item[2].numel() == 1 else item[2] for item in items]
