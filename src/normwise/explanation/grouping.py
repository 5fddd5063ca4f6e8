"""Grouping of values that share all their statistics, by their reaction to the others while they are equal."""

from __future__ import annotations

import torch
from torch import Tensor

#: The squared sine between two rows of derivatives: rounding leaves 1e-14, another statistic more than 1e-6.
SAME_DIRECTION = 1e-9
#: Relative to the largest derivative; smaller ones are rounding.
NOTHING = 1e-11


def dependence(influence: Tensor) -> Tensor:
    """Where one value affects another, from ``influence[i, j]``, the effect of value j on output i."""
    found = influence.abs() > NOTHING * influence.abs().amax()
    return found.fill_diagonal_(False)


def with_own(depends: Tensor) -> Tensor:
    """The values in the statistics of each value: those that affect it, and itself if it affects another."""
    reads = depends.clone()
    reads.diagonal().copy_(depends.any(0) & depends.any(1))
    return reads


class Directions:
    """Pairs of values with the same reads, which each draw either separates or keeps together.

    Two equal values that share every statistic react to each of the others in the same proportion: their outputs are
    one function of their own value and of the statistics, up to a factor (a weight). Values that differ cannot be
    compared, so each draw makes different ones equal.
    """

    def __init__(self, reads: Tensor) -> None:
        size = len(reads)
        self._apart = torch.zeros(size, size, dtype=torch.bool)
        self._together = torch.eye(size, dtype=torch.bool)
        self._untested = {sign: torch.zeros(size, size, dtype=torch.bool) for sign in (1.0, -1.0)}
        self._buckets = _buckets(reads)
        for members in self._buckets:
            pairs = members.unsqueeze(1), members
            if int(reads[members[0]].sum()) <= 2:  # there is nothing to compare besides the two values themselves
                self._together[pairs] = True
                continue
            for untested in self._untested.values():
                untested[pairs] = True
        for untested in self._untested.values():
            untested.fill_diagonal_(False)

    def look(self, influence: Tensor, equal: Tensor, sign: float) -> None:
        """Use ``influence[i, j]`` of a draw in which all values of the mask ``equal`` were one number.

        ``sign`` says whether that number was the largest or the smallest: a layer may show one statistic in one case
        and another in the other, for example by an activation or a maximum.
        """
        least = (NOTHING * float(influence.abs().amax())) ** 2
        for members in self._buckets:
            members = members[equal[members]]
            if len(members) < 2:
                continue
            rows = influence[members].clone()
            rows[torch.arange(len(members)), members] = 0
            # Without the columns of the two values themselves: there the direct dependence adds to the statistics.
            norms = rows.square().sum(1, keepdim=True) - rows[:, members].square()
            known = (norms > least) & (least < norms.T)
            sine = 1 - (rows @ rows.T).square() / (norms * norms.T).clamp_min(1e-300)
            pairs = members.unsqueeze(1), members
            self._together[pairs] |= known & (sine < SAME_DIRECTION)
            self._apart[pairs] |= known & (sine >= SAME_DIRECTION)
            self._untested[sign][pairs] &= ~known

    def lacks(self, sign: float) -> bool:
        """Whether there are pairs that were not tested by any draw of this sign, nor separated by any draw."""
        return bool((self._untested[sign] & ~self._apart).any())

    def groups(self) -> Tensor:
        """The number of its group for each value."""
        joined = (self._together & ~self._apart).fill_diagonal_(True)
        label = torch.full((len(joined),), -1)
        for value in range(len(joined)):
            if label[value] >= 0:
                continue
            reached, more = joined[value], joined[joined[value]].any(0)
            while not bool((more == reached).all()):
                reached, more = more, joined[more].any(0)
            label[reached & (label < 0)] = value
        return label


def _buckets(reads: Tensor) -> list[Tensor]:
    """The values with the same reads; values with other reads share no statistic."""
    found: dict[bytes, list[int]] = {}
    for value, row in enumerate(reads.numpy()):
        if row.any():
            found.setdefault(row.tobytes(), []).append(value)
    return [torch.tensor(members) for members in found.values()]
