"""The part of the training split on which learning rates are chosen; the verdict uses only the held-out split."""

from __future__ import annotations

from dataclasses import replace

import torch

from ..settings import InputError
from .in_memory import Data, fingerprint
from .streams import StreamedData
from .surveying import part_of
from .training_data import TrainingData

VALIDATION_SHARE = 0.2
VALIDATION_SEED = 1


def validation_part(data: TrainingData, largest_batch: int) -> TrainingData:
    """Split the training data again: a fifth (in classification, of each class) becomes the held-out split.

    Raises InputError if the rest has fewer samples than the largest batch.
    """
    if isinstance(data, StreamedData):
        part: TrainingData = part_of(data, VALIDATION_SHARE, VALIDATION_SEED)
    else:
        assert isinstance(data, Data)
        part = _part_of_held(data)
    if largest_batch > part.train_samples or not part.test_samples:
        raise InputError(
            f"lrs: {part.test_samples} of the {data.train_samples} training samples are set aside to choose the "
            f"learning rate; write batch sizes of at most {part.train_samples}, or leave lrs out."
        )
    return part


def _part_of_held(data: Data) -> Data:
    order = torch.randperm(len(data.y_train), generator=torch.Generator().manual_seed(VALIDATION_SEED))
    held = torch.zeros(len(order), dtype=torch.bool)
    labels = data.y_train.cpu()[order] if data.task == "classification" else torch.zeros(len(order))
    for label in range(len(data.classes)):
        members = order[labels == label]
        held[members[: round(VALIDATION_SHARE * len(members))]] = True
    kept, out = (part.nonzero().flatten().to(data.x_train.device) for part in (~held, held))
    x, y, groups = data.x_train, data.y_train, data.groups
    groups = groups and replace(groups, train=groups.train[kept], test=groups.train[out])
    part = replace(data, x_train=x[kept], y_train=y[kept], x_test=x[out], y_test=y[out], groups=groups)
    return replace(part, fingerprint=fingerprint(part))
