"""Groups of samples: the domain, patient or video that each belongs to, where mini-batches are made of one of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError

NAMES_SHOWN = 4


class Grouping(NamedTuple):
    """The value of `batches_by`, and the group of each sample as a whole number or a name."""

    key: str
    named: np.ndarray


@dataclass(frozen=True)
class Groups:
    """The groups of two splits. `train` and `test`: int64 `[N]`, the index of each sample's group in `names`; `key` is
    the value of `batches_by`."""

    key: str
    names: tuple[str, ...]
    train: Tensor
    test: Tensor

    def to(self, device: str) -> Groups:
        return Groups(self.key, self.names, self.train.to(device), self.test.to(device))

    def unseen(self) -> list[str]:
        """The groups of the held-out split that have no training sample."""
        return [self.names[group] for group in sorted(set(self.test.tolist()) - set(self.train.tolist()))]


def groups_of(source: str, grouping: Grouping | None, train: Tensor, test: Tensor) -> Groups | None:
    """The groups of two splits, given by the indices of their samples; None without a grouping.

    Raises InputError if the grouping does not fit the samples, or if all or almost no samples share a group.
    """
    if grouping is None:
        return None
    key, named = grouping
    start, samples = f"{source}: batches_by={key!r}", len(train) + len(test)
    if named.ndim != 1 or named.dtype.kind not in "buiUS":
        received = f"{named.dtype} of shape {list(named.shape)}"
        raise InputError(f"{start} is {received}; give one whole number or name per sample.")
    if len(named) != samples:
        raise InputError(f"{start} has {len(named)} entries for {samples} samples; give one per sample.")
    names, index = np.unique(named, return_inverse=True)
    if len(names) == 1:
        raise InputError(
            f"{start}: all samples are of one group, {str(names[0])!r}; name a column, array or pattern with several "
            "values."
        )
    if 2 * len(names) > samples:
        raise InputError(
            f"{start} has {len(names)} different values in {samples} samples, so hardly two of them share one; name "
            "what many have in common, such as the domain, the patient or the video."
        )
    numbers = torch.from_numpy(index.reshape(-1)).long()
    return Groups(key, tuple(str(name) for name in names), numbers[train], numbers[test])


def small_groups(groups: Groups | None, batch_sizes: Sequence[int]) -> str | None:
    """A sentence if a group is smaller than a batch, so that its samples are repeated."""
    if groups is None:
        return None
    counts = groups.train.bincount(minlength=len(groups.names)).tolist()
    for size in sorted(batch_sizes):
        short = sum(0 < count < size for count in counts)
        if short:
            have = "has" if short == 1 else "have"
            return (
                f"From batch size {size} on, {short} of the {len(counts)} groups ({groups.key}) {have} fewer training "
                "samples than a mini-batch, which repeats them."
            )
    return None
