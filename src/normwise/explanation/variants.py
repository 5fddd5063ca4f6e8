"""A row of `NORMALIZERS` at other batch sizes, numbers of groups and modes: the choices on the page."""

from __future__ import annotations

import torch

from ..layers.registry import parse_norm
from .explaining import Explanation, explain
from .samples import CHANNELS, SAMPLES, SPACE
from .subject import channels_for, of_row

#: The numbers of "group:2" and the like that suit the page's channels and samples.
NUMBERS = {"group": (1, 2, 3, 6), "evo-s0": (1, 2, 3, 6), "ghost": (1, 2, 4)}


def variants(name: str) -> list[Explanation]:
    """The row at 1 to 4 samples, every number that fits, in training and evaluation.

    Raises ValueError for an unknown name.
    """
    row, number = parse_norm(name)
    channels, space = channels_for(row, number), SPACE[2]
    usual = NUMBERS.get(row.name, (None,)) if channels == CHANNELS else ()
    numbers = dict.fromkeys((*usual, *((number,) if number else ())))
    found = []
    for training in (True, False):
        for number in numbers:
            subject = of_row(row, number, channels, 2)
            subject.what.train(training)
            for samples in range(1, SAMPLES + 1):
                shape = (samples, channels, *space) if row.of_maps else (samples, *space, channels)
                found.append(explain(subject, torch.zeros(shape)))
    return found
