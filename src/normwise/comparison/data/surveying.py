"""One pass over data that are read again in each epoch: their checks, their classes, and a fingerprint."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from ..settings import InputError
from ..tasks import TASKS, statistics_of
from .in_memory import channels_of, check_classes, check_several
from .streams import Stream, StreamedData, Survey
from .training_data import EVALUATION_BATCH


def surveyed(name: str, train: Stream, test: Stream, classes: tuple[str, ...] = ()) -> StreamedData:
    """Read both splits once in full; without `classes` they are numbered up to the largest training target.

    Raises InputError if samples are not finite, differ in shape, or have targets that do not fit the task.
    """
    look = _Look(name, train.task)
    statistics = statistics_of(look.targets("training", train, classes))
    if not classes:
        count = len(statistics.std) if train.task == "regression" else len(statistics.counts)
        count = max(count, look.channels) if train.task == "language" else count
        classes = tuple(str(number) for number in range(count))
    for _ in look.targets("held-out", test, classes):
        pass
    look.hash.update(repr(classes).encode())
    counts = F.pad(statistics.counts, (0, len(classes) - len(statistics.counts)))
    survey = Survey(look.example, statistics._replace(counts=counts), look.channels)
    data = StreamedData(name, train, test, classes, survey, look.hash.hexdigest()[:16], train.task)
    check_several(data)
    return data


class _Look:
    """The shape, range and hash of the batches of a pass, collected batch by batch."""

    def __init__(self, name: str, task: str) -> None:
        self.name, self.task = name, task
        self.hash = hashlib.sha256(task.encode())
        self.example, self.channels = torch.empty(0), 1
        self.shape: tuple[int, ...] | None = None

    def targets(self, split: str, stream: Stream, classes: tuple[str, ...]) -> Iterator[Tensor]:
        """The targets of a split, batch by batch."""
        for x, y, _ in stream.batches(EVALUATION_BATCH):
            shape = tuple(x.shape[1:])
            self.shape = self.shape or shape
            if shape != self.shape and not TASKS[self.task].takes_ids:
                raise InputError(
                    f"{self.name}: samples differ in shape, {list(self.shape)} and {list(shape)}; resize them to one."
                )
            self.example = self.example if len(self.example) else x[:2].clone()
            self.channels = max(self.channels, channels_of(self.task, x))
            for tensor in (x, y):
                self.hash.update(repr((tensor.dtype, tuple(tensor.shape))).encode())
                self.hash.update(tensor.contiguous().numpy().data)
            check_classes(self.name, split, y, len(classes) or None)
            yield y


def part_of(data: StreamedData, share: float, seed: int) -> StreamedData:
    """Split the training data again: a share of them becomes the held-out split, the rest is for training."""
    if not data.train.has_places:
        raise InputError(
            f"lrs: {data.name} is a stream, and no part of a stream can be set aside for the choice; leave lrs out and "
            "give learning_rate."
        )
    order = torch.randperm(data.train.samples, generator=torch.Generator().manual_seed(seed)).tolist()
    cut = round(share * len(order))
    parts = [torch.utils.data.Subset(data.train.dataset, places) for places in (order[cut:], order[:cut])]
    kept, held = (replace(data.train, dataset=part, samples=len(part), sampler=None) for part in parts)
    fingerprint = hashlib.sha256(f"{data.fingerprint} {share} {seed}".encode()).hexdigest()[:16]
    return replace(data, train=kept, test=held, fingerprint=fingerprint)
