"""Data that are read again in each epoch: data sets with worker processes, streams, and the user's own loaders."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    Sampler,
    SequentialSampler,
)

from ...signal.protection import random_numbers_kept
from ..contestants.models import first_line
from ..groups import Groups
from ..settings import InputError
from ..tasks import TASKS, TargetStatistics, Task
from .training_data import EVALUATION_BATCH, Batch, TrainingData


@dataclass(frozen=True)
class Stream:
    """One split, with `samples` samples per epoch, read by `workers` processes."""

    name: str
    dataset: Dataset[Any]
    samples: int
    task: str
    workers: int = 0
    collate: Callable[[list[Any]], Any] | None = None
    sampler: Sampler[Any] | None = None
    more: dict[str, Any] = field(default_factory=dict)

    @property
    def has_places(self) -> bool:
        """Whether samples can be read by index."""
        return not isinstance(self.dataset, IterableDataset)

    def batches(self, size: int, order: int | None = None, drop_last: bool = False) -> Iterator[Batch]:
        """One pass over the split, in its own order or a random one; InputError for a batch that the task cannot
        use."""
        generator = torch.Generator().manual_seed(order or 0)
        options: dict[str, Any] = {"generator": generator, "num_workers": self.workers, "drop_last": drop_last}
        if order is not None and self.sampler is not None:
            options["sampler"] = self.sampler
        elif self.has_places:
            options["shuffle"] = order is not None
        loader = DataLoader(self.dataset, batch_size=size, collate_fn=self.collate, **options, **self.more)
        seen, most = 0, self.samples // size if drop_last else -(-self.samples // size)
        batches = iter(loader)
        for number in range(most):
            # Without workers a data set draws its random numbers here, the same for every normalizer.
            with random_numbers_kept({torch.device("cpu")}, (order or 0) * 1_000_003 + number):
                given = self._next(batches, number)
            if given is None:
                break
            x, y = self._checked(given, number)
            seen += len(x)
            yield Batch(x, y)
        if seen < (most * size if drop_last else self.samples):
            raise InputError(
                f"{self.name}: an epoch had {seen} samples and the length is {self.samples}; let __len__ return the "
                "number of samples of an epoch."
            )

    def _next(self, batches: Iterator[Any], number: int) -> Any:
        """The next batch, None at the end."""
        try:
            return next(batches, None)
        except Exception as error:  # the user's code may raise anything, as does collating samples of unequal shape
            raise InputError(f"{self.name}: batch {number + 1} cannot be read: {first_line(error)}") from error

    def _checked(self, given: Any, number: int) -> tuple[Tensor, Tensor]:
        pair = list(given) if isinstance(given, (tuple, list)) else given
        if not isinstance(pair, list) or len(pair) < 2 or not all(isinstance(part, Tensor) for part in pair[:2]):
            raise InputError(
                f"{self.name}: a batch is {type(given).__name__}; let the data set give pairs (x, y) of tensors or "
                "numbers, or the loader collate them so."
            )
        x, y = pair[:2]
        if not len(x):
            raise InputError(f"{self.name}: batch {number + 1} has no samples; let the loader leave it out.")
        if len(x) != len(y):
            raise InputError(f"{self.name}: batch {number + 1} has {len(x)} samples and {len(y)} targets.")
        task_class = TASKS[self.task]
        if not x.is_floating_point() and not task_class.takes_ids:
            raise InputError(
                f"{self.name}: samples are of type {x.dtype}; give floating point, such as x.float() / 255."
            )
        x = x.float() if x.is_floating_point() else x.long()
        if not bool(torch.isfinite(x).all()):
            raise InputError(f"{self.name}: batch {number + 1} holds NaN or infinity; remove them or fill them in.")
        return x, task_class.targets(self.name, x, y)


class Survey(NamedTuple):
    """The results of one pass over both splits."""

    example: Tensor
    statistics: TargetStatistics
    in_channels: int


@dataclass(frozen=True)
class StreamedData(TrainingData):
    """Two streams and the survey of them."""

    name: str
    train: Stream
    test: Stream
    classes: tuple[str, ...]
    survey: Survey
    fingerprint: str = ""
    task: str = "classification"
    device: str = "cpu"
    groups: Groups | None = None

    @cached_property
    def objective(self) -> Task:
        return self.task_class(self.classes, self.survey.statistics)

    @property
    def train_samples(self) -> int:
        return self.train.samples

    @property
    def test_samples(self) -> int:
        return self.test.samples

    @property
    def in_channels(self) -> int:
        return self.survey.in_channels

    @property
    def example(self) -> Tensor:
        return self.survey.example

    def to(self, device: str) -> StreamedData:
        return replace(self, device=device)

    def steps(self, size: int) -> int:
        return self.train.samples // size

    def first(self, size: int) -> Batch:
        return next(self._moved(self.train.batches(size, order=0, drop_last=True)))

    def fixed(self, size: int) -> Tensor:
        return next(self._moved(self.train.batches(size))).x

    def epoch(self, size: int, seed: int, epoch: int) -> Iterator[Batch]:
        return self._moved(self.train.batches(size, order=seed * 1_000_003 + epoch, drop_last=True))

    def in_order(self, split: str, by_group: bool = False) -> Iterator[Batch]:  # noqa: ARG002
        """Streams have no groups."""
        return self._moved((self.train if split == "train" else self.test).batches(EVALUATION_BATCH))

    def full_batches(self, size: int) -> Iterator[tuple[Batch, int]]:
        """In the order of the stream."""
        first: Batch | None = None
        for batch in self._moved(self.test.batches(size)):
            first, counted = first or batch, len(batch.x)
            if counted < size:
                fill = torch.arange(size - counted, device=batch.x.device) % len(first.x)
                batch = Batch(torch.cat([batch.x, first.x[fill]]), torch.cat([batch.y, first.y[fill]]))
            yield batch, counted

    def _moved(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        return (Batch(batch.x.to(self.device), batch.y.to(self.device)) for batch in batches)


def stream_of(name: str, given: Any, task: str, workers: int | None) -> Stream:
    """A split that is a data set or a loader; a loader is rebuilt at the batch size of each run.

    Raises InputError for a loader that batches by itself, and for a stream of unknown length.
    """
    loader = given if isinstance(given, DataLoader) else None
    more: dict[str, Any] = {}
    if loader is not None:
        if loader.batch_size is None or (
            loader.batch_sampler is not None and type(loader.batch_sampler) is not BatchSampler
        ):
            raise InputError(
                f"{name}: its DataLoader has a custom batch sampler, and a comparison needs batches of several sizes; "
                "give a DataLoader with batch_size, or the data set itself."
            )
        more = {"collate": loader.collate_fn, "workers": loader.num_workers}
        if loader.worker_init_fn is not None or loader.pin_memory:
            more["more"] = {"worker_init_fn": loader.worker_init_fn, "pin_memory": loader.pin_memory}
        usual = isinstance(loader.dataset, IterableDataset) or type(loader.sampler) in (
            SequentialSampler,
            RandomSampler,
        )
        more |= {} if usual else {"sampler": loader.sampler}
    dataset: Any = loader.dataset if loader is not None else given
    if workers is not None:
        more["workers"] = workers
    return Stream(name, dataset, _length(name, dataset, more.get("sampler")), task, **more)


def _length(name: str, dataset: Any, sampler: Any) -> int:
    try:
        samples = len(dataset if sampler is None else sampler)
    except (TypeError, NotImplementedError) as error:
        raise InputError(
            f"{name}: {type(dataset).__name__} has no length, which the schedule of the learning rate needs; "
            "give it a __len__ that returns the number of samples of an epoch."
        ) from error
    except Exception as error:  # the user's own code may raise anything
        raise InputError(f"{name}: the length of {type(dataset).__name__} fails: {first_line(error)}") from error
    if samples < 1:
        raise InputError(f"{name}: a split is empty; give it at least one sample.")
    return samples
