"""The data of a comparison: a training split and a held-out split as tensors, checked."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .groups import Grouping, Groups, groups_of
from .settings import InputError

SPLIT_SEED = 0
# The largest over the smallest size of a feature from which on they are worth a remark.
WIDE = 100.0


@dataclass(frozen=True)
class Data:
    """`x`: float32 `[N, C, *space]` or `[N, C]`; `y`: int64 `[N]`, from 0 to `len(classes) - 1`; `groups` where
    mini-batches are made of one group each."""

    name: str
    x_train: Tensor
    y_train: Tensor
    x_test: Tensor
    y_test: Tensor
    classes: tuple[str, ...]
    fingerprint: str = ""
    groups: Groups | None = None

    @property
    def sample_shape(self) -> tuple[int, ...]:
        return tuple(self.x_train.shape[1:])

    def to(self, device: str) -> Data:
        moved = {name: getattr(self, name).to(device) for name in ("x_train", "y_train", "x_test", "y_test")}
        return replace(self, **moved, groups=self.groups and self.groups.to(device))


def check(data: Data) -> None:
    """Raises InputError for data that cannot be trained on."""
    for split, x, y in (("training", data.x_train, data.y_train), ("held-out", data.x_test, data.y_test)):
        if len(x) == 0:
            raise InputError(f"{data.name}: the {split} split is empty; give it at least one sample.")
        if len(x) != len(y) or y.dim() != 1:
            raise InputError(
                f"{data.name}: the {split} split has {len(x)} samples and labels of shape {list(y.shape)}; "
                "give one integer label per sample."
            )
        check_finite(data.name, f"{split} samples", x)
        if y.min() < 0 or y.max() >= len(data.classes):
            raise InputError(
                f"{data.name}: the {split} labels go from {int(y.min())} to {int(y.max())}, but the training "
                f"split has the classes 0 to {len(data.classes) - 1}; number the classes from 0."
            )
    if data.x_train.shape[1:] != data.x_test.shape[1:]:
        raise InputError(
            f"{data.name}: training samples have shape {list(data.x_train.shape[1:])}, held-out samples "
            f"{list(data.x_test.shape[1:])}; give both the same shape."
        )
    if len(torch.unique(data.y_train)) < 2:
        raise InputError(f"{data.name}: all training samples are of one class; a comparison needs at least two.")
    unseen = sorted(set(data.y_test.tolist()) - set(data.y_train.tolist()))
    if unseen:
        names = ", ".join(data.classes[label] for label in unseen)
        raise InputError(f"{data.name}: held-out samples of class {names}, but none to train on; add or remove some.")


def check_finite(name: str, samples: str, x: Tensor) -> None:
    """Raises InputError where a sample holds NaN or infinity."""
    bad = ~torch.isfinite(x.flatten(1)).all(1)
    if bad.any():
        raise InputError(
            f"{name}: {int(bad.sum())} of {len(x)} {samples} hold NaN or infinity (the first is number "
            f"{int(bad.nonzero()[0])}); remove them or fill them in."
        )


def scales_apart(data: Data) -> str | None:
    """A sentence where the features of a table lie on scales so different that most of them hardly count."""
    if data.x_train.dim() != 2:
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
    groups = () if data.groups is None else (data.groups.train, data.groups.test)
    for tensor in (data.x_train, data.y_train, data.x_test, data.y_test, *groups):
        total.update(repr((tensor.dtype, tuple(tensor.shape))).encode())
        total.update(tensor.cpu().contiguous().numpy().data)
    return total.hexdigest()[:16]


def split_and_standardize(
    name: str, x: Tensor, y: Tensor, classes: tuple[str, ...], held_out: float, grouping: Grouping | None = None
) -> Data:
    """A stratified `split`, standardized."""
    return standardized(split(name, x, y, classes, held_out, grouping))


def split(
    name: str, x: Tensor, y: Tensor, classes: tuple[str, ...], held_out: float, grouping: Grouping | None = None
) -> Data:
    """A stratified split: of each class the share `held_out` (at least one sample) is held out."""
    check_finite(name, "samples", x)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(SPLIT_SEED))
    test = torch.zeros(len(x), dtype=torch.bool)
    for label, class_name in enumerate(classes):
        members = order[y[order] == label]
        if len(members) == 1:
            raise InputError(
                f"{name}: class {class_name!r} has a single sample; training and held-out split need one each."
            )
        test[members[: max(1, round(held_out * len(members)))]] = True
    train, held = order[~test[order]], order[test[order]]
    groups = groups_of(name, grouping, train, held)
    return Data(name, x[train], y[train], x[held], y[held], classes, groups=groups)


def standardized(data: Data) -> Data:
    """Each channel with the mean and standard deviation of the training split, after `check`."""
    check(data)
    dims = [0, *range(2, data.x_train.dim())]
    std, mean = torch.std_mean(data.x_train, dim=dims, correction=0, keepdim=True)
    std = torch.where(std > 0, std, torch.ones_like(std))
    return replace(data, x_train=(data.x_train - mean) / std, x_test=(data.x_test - mean) / std)
