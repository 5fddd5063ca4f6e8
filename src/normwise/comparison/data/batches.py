"""Which samples make a mini-batch: any of the split, or those of one group."""

from __future__ import annotations

import torch
from torch import Tensor


def data_order(samples: int, seed: int, epoch: int) -> Tensor:
    """The permutation of an epoch: the same for every normalizer."""
    return torch.randperm(samples, generator=_random(seed, epoch))


def steps_of_epoch(samples: int, groups: Tensor | None, size: int) -> int:
    """The number of mini-batches of `batches_of_epoch`."""
    if groups is None:
        return samples // size
    return sum(max(1, count // size) for count in groups.bincount().tolist() if count)


def batches_of_epoch(samples: int, groups: Tensor | None, size: int, seed: int, epoch: int) -> list[Tensor]:
    """The indices of each mini-batch of an epoch, on the CPU, in the order of (seed, epoch).

    Without groups the permutation is cut into batches, and an incomplete last one is dropped. With groups each batch
    holds samples of one group: the incomplete last batch of a group is dropped, the samples of a group smaller than a
    batch are repeated until they fill one, and the order of the batches is random.

    >>> batches = batches_of_epoch(6, torch.tensor([0, 0, 0, 0, 1, 1]), 2, seed=0, epoch=1)
    >>> len(batches), [4, 5] in [sorted(batch.tolist()) for batch in batches]
    (3, True)
    """
    order = data_order(samples, seed, epoch)
    if groups is None:
        return list(order[: samples // size * size].split(size))
    pieces = [piece for members in by_group(order, groups.cpu()) for piece in _pieces(members, size)]
    turn = torch.randperm(len(pieces), generator=_random(seed, epoch))
    return [pieces[i] for i in turn.tolist()]


def by_group(order: Tensor, groups: Tensor | None) -> list[Tensor]:
    """The indices of each group, in the given order; without groups one tensor with all of them."""
    if groups is None:
        return [order]
    of_order = groups[order]
    return [order[of_order == group] for group in of_order.unique()]


def _pieces(members: Tensor, size: int) -> list[Tensor]:
    if len(members) < size:
        return [members[torch.arange(size) % len(members)]]
    return list(members[: len(members) // size * size].split(size))


def _random(seed: int, epoch: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed * 1_000_003 + epoch)
