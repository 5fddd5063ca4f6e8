"""What the loop asks of data, whether they are held in memory or read anew in each epoch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import NamedTuple

from torch import Tensor

from ..groups import Groups
from ..tasks import TASKS, Task

EVALUATION_BATCH = 128


class Batch(NamedTuple):
    """Samples and targets; `group` is the number of the one that all of them are of, where data have groups."""

    x: Tensor
    y: Tensor
    group: int | None = None


class TrainingData(ABC):
    """A training and a held-out split. `classes` are the names of the classes, in regression of the target columns."""

    name: str
    classes: tuple[str, ...]
    fingerprint: str
    groups: Groups | None
    task: str

    @property
    def kind(self) -> type[Task]:
        return TASKS[self.task]

    @property
    @abstractmethod
    def objective(self) -> Task:
        """Loss and metrics for these data."""

    @property
    @abstractmethod
    def train_samples(self) -> int: ...

    @property
    @abstractmethod
    def test_samples(self) -> int: ...

    @property
    @abstractmethod
    def in_channels(self) -> int:
        """Channels of a sample; of token numbers how many different ones there are."""

    @property
    @abstractmethod
    def example(self) -> Tensor:
        """Two samples (one, where there is no second), on the CPU."""

    @property
    def sample_shape(self) -> tuple[int, ...]:
        return tuple(self.example.shape[1:])

    @abstractmethod
    def to(self, device: str) -> TrainingData: ...

    @abstractmethod
    def steps(self, size: int) -> int:
        """The steps of an epoch."""

    @abstractmethod
    def first(self, size: int) -> Batch:
        """As many training samples as a step takes, for what is measured beside the training."""

    @abstractmethod
    def fixed(self, size: int) -> Tensor:
        """The same training samples in every run, at most `size`."""

    @abstractmethod
    def epoch(self, size: int, seed: int, epoch: int) -> Iterator[Batch]:
        """The mini-batches of an epoch, the same for every normalizer."""

    @abstractmethod
    def in_order(self, split: str, by_group: bool = False) -> Iterator[Batch]:
        """The split "train" or "test" once, in batches of at most `EVALUATION_BATCH`, where asked of one group each."""

    @abstractmethod
    def full_batches(self, size: int) -> Iterator[tuple[Batch, int]]:
        """The held-out samples once in batches of exactly `size`, of which so many count: the last is filled up with
        samples that have been before."""
