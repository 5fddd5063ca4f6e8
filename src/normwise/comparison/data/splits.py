"""Split samples into a training and a held-out part, and standardize both by the training part."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ..groups import Grouping, groups_of
from ..settings import InputError
from .in_memory import Data, check, check_finite

SPLIT_SEED = 0


def split_and_standardize(
    name: str,
    x: Tensor,
    y: Tensor,
    classes: tuple[str, ...],
    held_out: float,
    grouping: Grouping | None = None,
    task: str = "classification",
) -> Data:
    """The result of `split`, standardized."""
    return standardized(split(name, x, y, classes, held_out, grouping, task))


def split(
    name: str,
    x: Tensor,
    y: Tensor,
    classes: tuple[str, ...],
    held_out: float,
    grouping: Grouping | None = None,
    task: str = "classification",
) -> Data:
    """Hold out the share `held_out`, at least one sample; in classification, of each class."""
    check_finite(name, "samples", x)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(SPLIT_SEED))
    test = torch.zeros(len(x), dtype=torch.bool)
    for members, class_name in _strata(order, y, classes, task):
        if len(members) == 1:
            whose = f"class {class_name!r} has" if class_name else "the data have"
            raise InputError(f"{name}: {whose} a single sample; training and held-out split need one each.")
        test[members[: max(1, round(held_out * len(members)))]] = True
    train, held = order[~test[order]], order[test[order]]
    groups = groups_of(name, grouping, train, held)
    return Data(name, x[train], y[train], x[held], y[held], classes, groups=groups, task=task)


def _strata(order: Tensor, y: Tensor, classes: tuple[str, ...], task: str) -> list[tuple[Tensor, str]]:
    """The parts that are split separately (in classification one per class), each with the name of its class."""
    if task != "classification":
        return [(order, "")]
    return [(order[y[order] == label], name) for label, name in enumerate(classes)]


def standardized(data: Data) -> Data:
    """Each channel with the mean and standard deviation of the training split, after `check`."""
    check(data)
    channel = data.x_train.dim() - 1 if data.task == "labelling" else 1
    dims = [dim for dim in range(data.x_train.dim()) if dim != channel]
    std, mean = torch.std_mean(data.x_train, dim=dims, correction=0, keepdim=True)
    std = torch.where(std > 0, std, torch.ones_like(std))
    return replace(data, x_train=(data.x_train - mean) / std, x_test=(data.x_test - mean) / std)
