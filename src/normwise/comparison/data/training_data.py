"""The interface of data for the training loop, both for data in memory and for data read again in each epoch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import NamedTuple

from torch import Tensor

from ..groups import Groups
from ..tasks import TASKS, Task

EVALUATION_BATCH = 128


class Batch(NamedTuple):
    """Samples and targets; `group` is the number of their common group, None for data without groups."""

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
    def task_class(self) -> type[Task]:
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
        """The number of channels of a sample; for token numbers, the number of different tokens."""

    @property
    @abstractmethod
    def example(self) -> Tensor:
        """Two samples on the CPU; one if there is no second."""

    @property
    def sample_shape(self) -> tuple[int, ...]:
        return tuple(self.example.shape[1:])

    @abstractmethod
    def to(self, device: str) -> TrainingData: ...

    @abstractmethod
    def steps(self, size: int) -> int:
        """The number of steps in an epoch."""

    @abstractmethod
    def first(self, size: int) -> Batch:
        """One mini-batch of training samples, for measurements outside the training."""

    @abstractmethod
    def fixed(self, size: int) -> Tensor:
        """The same training samples in every run, at most `size`."""

    @abstractmethod
    def epoch(self, size: int, seed: int, epoch: int) -> Iterator[Batch]:
        """The mini-batches of an epoch, the same for every normalizer."""

    @abstractmethod
    def in_order(self, split: str, by_group: bool = False) -> Iterator[Batch]:
        """One pass over the split "train" or "test" in batches of at most `EVALUATION_BATCH`; with `by_group`, each
        batch holds one group."""

    @abstractmethod
    def full_batches(self, size: int) -> Iterator[tuple[Batch, int]]:
        """One pass over the held-out samples in batches of exactly `size`, each with the number of samples that count:
        the last batch is filled up with samples of earlier ones."""
