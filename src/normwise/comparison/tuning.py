"""The learning rate of each contestant, chosen on a part of the training split that the verdict does not use."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch

from .data import Data
from .isolation import isolated
from .settings import InputError, Run, Settings
from .training import Trainer, run_epochs

VALIDATION_SHARE = 0.2
VALIDATION_SEED = 1


class Try(NamedTuple):
    """What one learning rate gave one contestant at one batch size: accuracy and loss on the validation part."""

    norm: str
    batch_size: int
    rate: float
    accuracy: float
    loss: float | None


def validation_part(data: Data, largest_batch: int) -> Data:
    """The training split as a smaller one, with a fifth of each of its classes held out in the place of the test split.

    Raises InputError where a batch would not fit into what is left.
    """
    order = torch.randperm(len(data.y_train), generator=torch.Generator().manual_seed(VALIDATION_SEED))
    labels = data.y_train.cpu()[order]
    held = torch.zeros(len(order), dtype=torch.bool)
    for label in range(len(data.classes)):
        members = order[labels == label]
        held[members[: round(VALIDATION_SHARE * len(members))]] = True
    kept, out = (part.nonzero().flatten().to(data.x_train.device) for part in (~held, held))
    if largest_batch > len(kept) or not len(out):
        raise InputError(
            f"lrs: {len(out)} of the {len(order)} training samples are set aside to choose the learning rate; write "
            f"batch sizes of at most {len(kept)}, or leave lrs out."
        )
    x, y, groups = data.x_train, data.y_train, data.groups
    groups = groups and replace(groups, train=groups.train[kept], test=groups.train[out])
    return replace(data, x_train=x[kept], y_train=y[kept], x_test=x[out], y_test=y[out], groups=groups)


def try_rate(make: Callable[[], Trainer], run: Run, settings: Settings) -> Try:
    """Train a contestant at the learning rate of `settings`; `make` gives its trainer on the `validation_part`."""
    with isolated(run.seed, settings.device, settings.threads):
        outcome = run_epochs(make(), settings.epochs, lambda *_: None)
    return Try(run.norm, run.batch_size, settings.learning_rate, outcome["test_accuracy"], outcome["test_loss"])


def best_rate(tries: Sequence[Try]) -> float:
    """The rate with the highest accuracy; of equal ones that with the smallest loss, a diverged run last."""
    return max(tries, key=lambda tried: (tried.accuracy, -float("inf") if tried.loss is None else -tried.loss)).rate
