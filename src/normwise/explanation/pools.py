"""The meaning of a measured cube: the axes over which statistics are pooled, and the articles' table of properties."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

NO, PART, ALL = "", "part", "all"


class Pool(NamedTuple):
    """The extent of one statistic: `NO`, `PART` or `ALL` of the samples, channels and positions, and its ``values``.

    ``whole`` is false if it uses some samples for some channels only, as a mixture of statistics does.
    """

    samples: str
    channels: str
    space: str
    values: int
    whole: bool

    @property
    def text(self) -> str:
        """The extent in words.

        >>> Pool(ALL, NO, ALL, 16, True).text, Pool(NO, PART, ALL, 8, True).text, Pool(ALL, ALL, ALL, 36, False).text
        ('N, space', 'C/G, space', 'N, C, space, each in part')
        """
        names = {"samples": ("chunks of N", "N"), "channels": ("C/G", "C"), "space": ("part of space", "space")}
        parts = [(names[axis][getattr(self, axis) == ALL]) for axis in names if getattr(self, axis) != NO]
        return ", ".join(parts) + ("" if self.whole else ", each in part")


def pools(cube: Tensor, reads: Tensor, rows: bool) -> list[Pool]:
    """The different pools of a cube, the first group's first; ``rows``: the channels are the last dimension."""
    flat = cube.flatten()
    found: dict[Pool, None] = {}
    for group in range(int(flat.max()) + 1):
        value = int((flat == group).nonzero()[0])
        found[_pool(reads[value], tuple(cube.shape), rows)] = None
    return list(found)


def _pool(read: Tensor, shape: tuple[int, ...], rows: bool) -> Pool:
    places = torch.stack(torch.unravel_index(read.nonzero().flatten(), shape))
    channel = len(shape) - 1 if rows else min(1, len(shape) - 1)
    axes = {"samples": [0], "channels": [channel], "space": [a for a in range(len(shape)) if a not in (0, channel)]}
    reached = {name: _reached(places, shape, along) for name, along in axes.items()}
    sizes = {name: len(places[along].unique(dim=1).T) if along else 1 for name, along in axes.items()}
    whole = sizes["samples"] * sizes["channels"] * sizes["space"] == places.shape[1]
    return Pool(**reached, values=places.shape[1], whole=whole)


def _reached(places: Tensor, shape: tuple[int, ...], along: list[int]) -> str:
    size = int(torch.tensor([shape[a] for a in along]).prod()) if along else 1
    there = len(places[along].unique(dim=1).T) if along else 1
    return NO if there == 1 else ALL if there == size else PART


def properties(found: list[Pool], groups: int) -> dict[str, str]:
    """The articles' table: what is pooled, for which values."""
    if not found:
        return {
            "Pools over the batch?": "no",
            "Each channel by itself?": "yes",
            "Range of a statistic": "none: each value by itself, or by remembered statistics",
            "Uses space?": "no",
        }
    batch = {pool.samples for pool in found}
    channels = {pool.channels for pool in found}
    return {
        "Pools over the batch?": "yes" if ALL in batch else "in chunks" if PART in batch else "no",
        "Each channel by itself?": "no" if ALL in channels else "in groups of channels" if PART in channels else "yes",
        "Range of a statistic": "; ".join(dict.fromkeys(pool.text for pool in found)),
        "Uses space?": "yes" if any(pool.space != NO for pool in found) else "no",
        "Values behind a statistic": ", ".join(map(str, dict.fromkeys(pool.values for pool in found))),
        "Groups that share all": str(groups),
    }
