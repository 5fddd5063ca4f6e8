"""Which values share all their statistics: from how the others move them, when they are equal themselves."""

from __future__ import annotations

import torch
from torch import Tensor

#: Of a squared sine between two rows of derivatives: rounding leaves 1e-14, another statistic more than 1e-6.
SAME_DIRECTION = 1e-9
#: Of the largest derivative: what is smaller is rounding.
NOTHING = 1e-11


def dependence(influence: Tensor) -> Tensor:
    """Where one value moves another, of ``influence[i, j]``: what value j does to output i."""
    found = influence.abs() > NOTHING * influence.abs().amax()
    return found.fill_diagonal_(False)


def with_own(depends: Tensor) -> Tensor:
    """What enters the statistics of each value: those that move it, and itself where it moves another."""
    reads = depends.clone()
    reads.diagonal().copy_(depends.any(0) & depends.any(1))
    return reads


class Directions:
    """Pairs of values with the same reads, told apart or put together by one draw after the other.

    Two values that are equal, and share every statistic, are moved by each of the others in the same proportion: their
    outputs are one function of their own value and of the statistics, up to a factor (a weight). Values that differ
    say nothing of each other, so each draw makes others equal.
    """

    def __init__(self, reads: Tensor) -> None:
        size = len(reads)
        self._apart = torch.zeros(size, size, dtype=torch.bool)
        self._together = torch.eye(size, dtype=torch.bool)
        self._untested = {sign: torch.zeros(size, size, dtype=torch.bool) for sign in (1.0, -1.0)}
        self._buckets = _buckets(reads)
        for members in self._buckets:
            pairs = members.unsqueeze(1), members
            if int(reads[members[0]].sum()) <= 2:  # nothing is left to compare beside the two themselves
                self._together[pairs] = True
                continue
            for untested in self._untested.values():
                untested[pairs] = True
        for untested in self._untested.values():
            untested.fill_diagonal_(False)

    def look(self, influence: Tensor, equal: Tensor, sign: float) -> None:
        """Take in ``influence[i, j]`` of a draw in which all values of the mask ``equal`` were one number.

        ``sign`` says whether that was the largest or the smallest: a layer may show one statistic in the one and
        another in the other, as an activation or the larger of two does.
        """
        least = (NOTHING * float(influence.abs().amax())) ** 2
        for members in self._buckets:
            members = members[equal[members]]
            if len(members) < 2:
                continue
            rows = influence[members].clone()
            rows[torch.arange(len(members)), members] = 0
            # Without the columns of the two themselves: there the direct way adds to that by the statistics.
            norms = rows.square().sum(1, keepdim=True) - rows[:, members].square()
            known = (norms > least) & (least < norms.T)
            sine = 1 - (rows @ rows.T).square() / (norms * norms.T).clamp_min(1e-300)
            pairs = members.unsqueeze(1), members
            self._together[pairs] |= known & (sine < SAME_DIRECTION)
            self._apart[pairs] |= known & (sine >= SAME_DIRECTION)
            self._untested[sign][pairs] &= ~known

    def lacks(self, sign: float) -> bool:
        """Whether there are pairs that no draw of this sign has tested, and none has told apart."""
        return bool((self._untested[sign] & ~self._apart).any())

    def groups(self) -> Tensor:
        """A number for each value."""
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
    """The values with the same reads; others share no statistic."""
    found: dict[bytes, list[int]] = {}
    for value, row in enumerate(reads.numpy()):
        if row.any():
            found.setdefault(row.tobytes(), []).append(value)
    return [torch.tensor(members) for members in found.values()]
