"""Comparable step times, measured in turns."""

from __future__ import annotations

import statistics
from collections.abc import Mapping

import torch

from .trainer import Trainer

WARM_UP_ROUNDS = 2
ROUNDS = 15
LEAST_ROUNDS = 3
SECONDS_EACH = 1.5


def side_by_side(trainers: Mapping[str, Trainer]) -> dict[str, float]:
    """Milliseconds of a training step of each trainer: the median over rounds in which every one takes one step.

    A temporary slowdown of the machine affects all of them in the same rounds, and the order rotates by one from round
    to round, so that none always runs after the same other one. Empty if they do not fit into memory together.
    """
    if not trainers:
        return {}
    names, enough = list(trainers), SECONDS_EACH * len(trainers)
    try:
        for number in range(WARM_UP_ROUNDS + ROUNDS):
            if number == WARM_UP_ROUNDS:
                for trainer in trainers.values():
                    trainer.timed.clear()
            at = number % len(names)
            for name in (*names[at:], *names[:at]):
                trainers[name].timed_step(*trainers[name].first_batch)
            spent = sum(sum(trainer.timed) for trainer in trainers.values())
            if number >= WARM_UP_ROUNDS + LEAST_ROUNDS - 1 and spent > enough:
                break
    except torch.OutOfMemoryError:
        return {}
    return {name: 1e3 * statistics.median(trainer.timed) for name, trainer in trainers.items()}
