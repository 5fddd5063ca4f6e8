"""Data that a function of the caller returns."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from ..contestants.models import first_line
from ..groups import Grouping, groups_of
from ..references import load_object, result_of
from ..settings import InputError
from ..tasks import IGNORED
from .in_memory import Data
from .samples import classes_of, padded, samples_of
from .streams import stream_of
from .surveying import surveyed
from .training_data import TrainingData

GROUP = "group"


def from_reference(reference: str, key: str | None, task: str, workers: int | None) -> TrainingData:
    """Data of the function `package.module:function`."""
    function = load_object(reference)
    if not callable(function):
        raise InputError(f"{reference!r} is not a function; it must return (train, test).")
    return from_splits(result_of(reference, function), reference, key, task, workers)


def from_splits(made: Any, name: str, key: str | None, task: str, workers: int | None) -> TrainingData:
    """Data of (train, test). Each is a pair (x, y) of tensors, a triple (x, y, group), a torch dataset or a DataLoader.

    Without `workers`, data sets are read once and held in memory. Streams and loaders, and with `workers` also data
    sets, are read again in each epoch.
    """
    if key not in (None, GROUP):
        raise InputError(
            f"batches_by={key!r}: the groups of {name} are the third entry of each split, (x, y, group); write "
            f"{GROUP!r}."
        )
    if not isinstance(made, (tuple, list)) or len(made) != 2:
        raise InputError(f"{name} must return (train, test), it returned {type(made).__name__}.")
    streamed = [_is_streamed(split, workers) for split in made]
    if any(streamed):
        return _streamed(made, streamed, name, key, task, workers)
    if workers is not None:
        raise InputError(f"workers={workers}: {name} gives tensors, which are in memory already; leave workers out.")
    train, test = (_checked(name, split, key is not None, task) for split in made)
    classes = classes_of(task, (train.x, train.y), (test.x, test.y))
    data = Data(name, train.x, train.y, test.x, test.y, classes, task=task)
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


def _is_streamed(split: Any, workers: int | None) -> bool:
    given = isinstance(split, (IterableDataset, DataLoader))
    return given or (workers is not None and not isinstance(split, (tuple, list, Tensor)))


def _streamed(
    made: Any, streamed: list[bool], name: str, key: str | None, task: str, workers: int | None
) -> TrainingData:
    if not all(streamed):
        raise InputError(
            f"{name}: one split is read again in each epoch and the other is in memory; give both in one form."
        )
    if key is not None:
        raise InputError(
            f"batches_by={key!r}: {name} is read again in each epoch, and such data have no groups; leave it out."
        )
    train, test = (stream_of(name, split, task, workers) for split in made)
    named = getattr(train.dataset, "classes", None) if task == "classification" else None
    names = tuple(map(str, named)) if isinstance(named, (tuple, list)) else ()
    return surveyed(name, train, test, names)


class _Split(NamedTuple):
    x: Tensor
    y: Tensor
    groups: np.ndarray | None


def _checked(name: str, split: Any, grouped: bool, task: str) -> _Split:
    """A split as tensors, and, if `grouped`, the groups of its samples."""
    groups = None
    if task == "language" and isinstance(split, (Tensor, np.ndarray)):
        x, y = _tensor(name, "tokens", split), None
    elif isinstance(split, (tuple, list)) and len(split) in (2, 3) and not isinstance(split[0], (tuple, list)):
        x, y = _tensor(name, "samples", split[0]), _tensor(name, "labels", split[1])
        groups = _groups(name, split[2] if len(split) == 3 else None) if grouped else None
    else:
        x, y, groups = _stacked(name, split, grouped, task)
    x, y = samples_of(name, task, x.detach().cpu(), None if y is None else y.detach().cpu())
    return _Split(x, y, groups)


def _groups(name: str, given: Any) -> np.ndarray:
    if given is None:
        raise InputError(
            f"{name}: batches_by={GROUP!r} needs the group of each sample; return splits (x, y, group), or data "
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
    """A dense tensor with values, from anything that torch.as_tensor accepts."""
    try:
        tensor = torch.as_tensor(part)
    except (TypeError, ValueError, RuntimeError) as error:
        received = type(part).__name__
        raise InputError(
            f"{name}: {what} are {received}, which is no tensor; return tensors or NumPy arrays."
        ) from error
    if tensor.layout is not torch.strided or tensor.is_nested:
        received = "a nested tensor" if tensor.is_nested else "a sparse tensor"
        raise InputError(f"{name}: {what} are {received}; return dense ones, such as x.to_dense().")
    if tensor.is_meta or tensor.is_quantized:
        raise InputError(f"{name}: {what} are a tensor without values or a quantized one; return plain numbers.")
    return tensor


def _stacked(name: str, split: Any, grouped: bool, task: str) -> tuple[Tensor, Tensor, np.ndarray | None]:
    try:
        items = [split[i] for i in range(len(split))]
    except (TypeError, KeyError) as error:
        raise InputError(
            f"{name}: a split is a torch dataset with a length or a pair (x, y) of tensors, "
            f"received {type(split).__name__}."
        ) from error
    if not items:
        raise InputError(f"{name}: a split is empty; give it at least one sample.")
    try:
        samples = [item[0] for item in items]
        labels: list[Any] = [int(item[1]) if task == "classification" else torch.as_tensor(item[1]) for item in items]
    except (TypeError, ValueError, IndexError, KeyError, RuntimeError) as error:
        what = "with a class number as label" if task == "classification" else "with a tensor or a number as target"
        raise InputError(
            f"{name}: the items of a split are pairs (x, label) {what}, received "
            f"{type(items[0]).__name__} ({first_line(error)})"
        ) from error
    if not all(isinstance(sample, Tensor) for sample in samples):
        raise InputError(f"{name}: samples are {type(samples[0]).__name__}; let the dataset return tensors.")
    samples = [_tensor(name, "samples", sample) for sample in samples]
    groups = _groups(name, _third_entries(items)) if grouped else None
    if task == "labelling":
        return (*_sequences(name, samples, labels), groups)
    if len({sample.shape for sample in samples}) > 1:
        raise InputError(f"{name}: samples differ in shape; resize them to one shape.")
    if task == "classification":
        return torch.stack(samples), torch.tensor(labels), groups
    if len({label.shape for label in labels}) > 1:
        raise InputError(f"{name}: targets differ in shape; give all of them one shape.")
    return torch.stack(samples), torch.stack(labels), groups


def _sequences(name: str, samples: list[Tensor], labels: list[Any]) -> tuple[Tensor, Tensor]:
    """Sequences of different lengths padded with zeros, and their labels padded with `IGNORED`."""
    for number, (sample, label) in enumerate(zip(samples, labels, strict=True)):
        if not sample.dim() or not len(sample):
            raise InputError(f"{name}: sequence {number} is of length 0; leave it out.")
        if label.dim() != 1 or len(label) != len(sample):
            raise InputError(
                f"{name}: sequence {number} has {len(sample)} tokens and labels of shape {list(label.shape)}; give one "
                "label per token."
            )
    return padded(samples, 0), padded(labels, IGNORED)


def _third_entries(items: list[Any]) -> list[Any] | None:
    """The groups of single samples; None where one has none."""
    if any(len(item) < 3 for item in items):
        return None
    return [item[2].item() if isinstance(item[2], Tensor) and item[2].numel() == 1 else item[2] for item in items]
