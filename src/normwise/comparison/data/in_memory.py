"""The data of a comparison: a training split and a held-out split as tensors, checked."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from ..groups import Groups
from ..settings import InputError
from ..tasks import IGNORED, Task, statistics_of
from .batches import batches_of_epoch, by_group, data_order, steps_of_epoch
from .training_data import EVALUATION_BATCH, Batch, TrainingData

# How many bytes of an epoch are gathered at once: one gather per batch would take a tenth of a small net's step.
GATHERED_BYTES = 4 << 20
# The ratio of the largest to the smallest feature scale from which the report has a remark.
WIDE = 100.0


@dataclass(frozen=True)
class Data(TrainingData):
    """Samples in memory. `x`: float32 `[N, C, *space]` or `[N, C]`, or the task's own form; `y`: the targets in the
    task's form, for classes int64 `[N]` from 0 to `len(classes) - 1`; `groups`: given if each mini-batch holds one
    group."""

    name: str
    x_train: Tensor
    y_train: Tensor
    x_test: Tensor
    y_test: Tensor
    classes: tuple[str, ...]
    fingerprint: str = ""
    groups: Groups | None = None
    task: str = "classification"

    @cached_property
    def objective(self) -> Task:
        return self.task_class(self.classes, statistics_of([self.y_train], len(self.classes)))

    @property
    def train_samples(self) -> int:
        return len(self.x_train)

    @property
    def test_samples(self) -> int:
        return len(self.x_test)

    @property
    def in_channels(self) -> int:
        return channels_of(self.task, self.x_train, self.x_test)

    @property
    def example(self) -> Tensor:
        return self.x_train[:2].cpu()

    def to(self, device: str) -> Data:
        moved = {name: getattr(self, name).to(device) for name in ("x_train", "y_train", "x_test", "y_test")}
        return replace(self, **moved, groups=self.groups and self.groups.to(device))

    def steps(self, size: int) -> int:
        return steps_of_epoch(len(self.x_train), self.groups and self.groups.train, size)

    def first(self, size: int) -> Batch:
        return Batch(self.x_train[:size], self.y_train[:size])

    def fixed(self, size: int) -> Tensor:
        return self.x_train[data_order(len(self.x_train), 0, 0)[:size].to(self.x_train.device)]

    def epoch(self, size: int, seed: int, epoch: int) -> Iterator[Batch]:
        groups = self.groups and self.groups.train
        batches = batches_of_epoch(len(self.x_train), groups, size, seed, epoch)
        together = max(1, GATHERED_BYTES // max(1, size * self.x_train[0].nbytes))
        for start in range(0, len(batches), together):
            index = torch.cat(batches[start : start + together]).to(self.x_train.device)
            of_each = [None] * together if groups is None else groups[index[::size]].tolist()
            yield from map(Batch, self.x_train[index].split(size), self.y_train[index].split(size), of_each)

    def in_order(self, split: str, by_group: bool = False) -> Iterator[Batch]:
        x, y = (self.x_train, self.y_train) if split == "train" else (self.x_test, self.y_test)
        groups = getattr(self.groups, split) if by_group and self.groups else None
        for group in [None] if groups is None else groups.unique().tolist():
            members = slice(None) if groups is None else (groups == group).nonzero().flatten()
            pieces = zip(x[members].split(EVALUATION_BATCH), y[members].split(EVALUATION_BATCH), strict=True)
            yield from (Batch(part, targets, group) for part, targets in pieces)

    def full_batches(self, size: int) -> Iterator[tuple[Batch, int]]:
        """In one fixed random order; with groups, one group after the other."""
        order = torch.randperm(len(self.x_test), generator=torch.Generator().manual_seed(0)).to(self.x_test.device)
        for members in by_group(order, self.groups and self.groups.test):
            for start in range(0, len(members), size):
                index = members[torch.arange(start, start + size, device=order.device) % len(members)]
                yield Batch(self.x_test[index], self.y_test[index]), min(size, len(members) - start)


def channels_of(task: str, *samples: Tensor) -> int:
    """The number of channels of the samples; for token numbers, the number of different tokens."""
    if not samples[0].is_floating_point():
        return 1 + max(int(x.max()) for x in samples)
    return samples[0].shape[-1 if task == "labelling" else 1]


def check(data: Data) -> None:
    """Raises InputError for data that cannot be trained on."""
    for split, x, y in (("training", data.x_train, data.y_train), ("held-out", data.x_test, data.y_test)):
        if len(x) == 0:
            raise InputError(f"{data.name}: the {split} split is empty; give it at least one sample.")
        if len(x) != len(y) or (data.task == "classification" and y.dim() != 1):
            raise InputError(
                f"{data.name}: the {split} split has {len(x)} samples and labels of shape {list(y.shape)}; "
                "give one integer label per sample."
            )
        check_finite(data.name, f"{split} samples", x)
        check_classes(data.name, split, y, len(data.classes))
    if data.x_train.shape[1:] != data.x_test.shape[1:]:
        raise InputError(
            f"{data.name}: training samples have shape {list(data.x_train.shape[1:])}, held-out samples "
            f"{list(data.x_test.shape[1:])}; give both the same shape."
        )
    check_several(data)
    unseen = sorted(set(data.y_test.tolist()) - set(data.y_train.tolist())) if data.task == "classification" else []
    if unseen:
        names = ", ".join(data.classes[label] for label in unseen)
        raise InputError(f"{data.name}: held-out samples of class {names}, but none to train on; add or remove some.")


def check_classes(name: str, split: str, y: Tensor, classes: int | None) -> None:
    """Raises InputError for numbers outside 0 to `classes - 1`; with None, for negative ones."""
    if y.is_floating_point():
        return
    counted = y[y != IGNORED]
    if len(counted) and (counted.min() < 0 or (classes is not None and counted.max() >= classes)):
        those = "" if classes is None else f", but the training split has the classes 0 to {classes - 1}"
        raise InputError(
            f"{name}: the {split} labels go from {int(counted.min())} to {int(counted.max())}{those}; number the "
            "classes from 0."
        )


def check_several(data: TrainingData) -> None:
    """Raises InputError if all training targets are equal."""
    statistics = data.objective.statistics
    if len(statistics.std) and not bool((statistics.std > 0).any()):
        raise InputError(f"{data.name}: all training targets are the same number; there is nothing to learn.")
    if len(statistics.counts) and not len(statistics.std) and int((statistics.counts > 0).sum()) < 2:
        raise InputError(f"{data.name}: all training samples are of one class; a comparison needs at least two.")


def check_finite(name: str, samples: str, x: Tensor) -> None:
    """Raises InputError where a sample holds NaN or infinity."""
    bad = ~torch.isfinite(x.flatten(1)).all(1)
    if bad.any():
        raise InputError(
            f"{name}: {int(bad.sum())} of {len(x)} {samples} hold NaN or infinity (the first is number "
            f"{int(bad.nonzero()[0])}); remove them or fill them in."
        )


def scales_apart(data: Data) -> str | None:
    """A sentence if the scales of a table's features differ so much that the small ones have almost no effect."""
    if data.x_train.dim() != 2 or not data.x_train.is_floating_point():
        return None
    size = data.x_train.square().mean(0).sqrt()
    size = size[size > 0]
    if len(size) < 2 or size.max() < WIDE * size.min():
        return None
    return (
        f"The features of {data.name} lie on very different scales (root mean squares {size.min():.2g} to "
        f"{size.max():.2g}), which slows every network: --standardize gives each mean 0 and variance 1."
    )


def fingerprint(data: Data) -> str:
    """Hash of everything in the data but their name."""
    total = hashlib.sha256(repr(data.classes).encode())
    if data.task != "classification":
        total.update(data.task.encode())
    groups = () if data.groups is None else (data.groups.train, data.groups.test)
    for tensor in (data.x_train, data.y_train, data.x_test, data.y_test, *groups):
        total.update(repr((tensor.dtype, tuple(tensor.shape))).encode())
        total.update(tensor.cpu().contiguous().numpy().data)
    return total.hexdigest()[:16]
