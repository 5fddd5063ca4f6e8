"""The interface of a task for the training loop: loss, metrics, and checks of targets and outputs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from ...errors import InputError
from ..metric import Metric
from .target_statistics import TargetStatistics

# The number of pieces of the held-out split; each is left out once for the interval of a metric.
PIECES = 20


class Task(ABC):
    """Loss and metrics of one kind of target, for data with these `classes` (in regression: target columns).

    `sums` returns for each sample the terms of the metrics, and `values` computes the metrics from their total: so they
    are those of the whole held-out split, whatever the batches. `metrics[0]` is the default metric.
    """

    name: ClassVar[str]
    metrics: ClassVar[tuple[Metric, ...]]
    #: The defaults of `compare`.
    model: ClassVar[str]
    data: ClassVar[str]
    norms: ClassVar[tuple[str, ...]]
    optimizer: ClassVar[str] = "adamw"
    epochs: ClassVar[int]
    #: The loss, in words for the report.
    loss_in_words: ClassVar[str]
    #: Whether the confidence interval of a metric cannot be computed from the number of held-out samples alone.
    needs_interval: ClassVar[bool] = True
    #: Whether samples are whole numbers that a model embeds.
    takes_ids: ClassVar[bool] = False

    def __init__(self, classes: Sequence[str], statistics: TargetStatistics) -> None:
        self.classes, self.statistics = tuple(classes), statistics

    @abstractmethod
    def loss(self, output: Any, y: Tensor) -> Tensor:
        """The mean loss of a batch."""

    @abstractmethod
    def sums(self, output: Any, y: Tensor) -> Tensor:
        """float64 `[n, k]`: for each sample the terms whose totals determine the metrics."""

    @abstractmethod
    def values(self, total: Tensor) -> dict[str, float]:
        """The metrics by name, and the mean `loss`, from the `[k]` sums over all samples."""

    @abstractmethod
    def constant(self, y: Tensor) -> Tensor:
        """The outputs of the best answer that does not depend on the samples."""

    @staticmethod
    @abstractmethod
    def targets(name: str, x: Tensor, y: Tensor) -> Tensor:
        """The targets of some samples, converted to the task's dtype and shape; InputError if that is impossible."""

    @staticmethod
    @abstractmethod
    def check_output(name: str, output: Any, x: Tensor, classes: int) -> None:
        """Raises InputError if the output of a model does not fit the task."""

    def interval(self, sums: Tensor, metric: str) -> float | None:
        """Half the 95 % interval of a metric on these held-out samples, by leaving out a twentieth of them each time
        (the delete-d jackknife); None for fewer than two samples."""
        pieces = min(PIECES, len(sums))
        if pieces < 2:
            return None
        parts = torch.stack([sums[i::pieces].sum(0) for i in range(pieces)])
        without = torch.tensor([self.values(parts.sum(0) - part)[metric] for part in parts], dtype=torch.float64)
        spread = (without - without.mean()).square().sum() * (pieces - 1) / pieces
        half = 1.96 * float(spread.sqrt())
        return half if half == half else None

    @classmethod
    def metric(cls, name: str | None, direction: str | None) -> Metric:
        """The metric of this name, by default the task's first."""
        found = cls.metrics[0] if name is None else next((m for m in cls.metrics if m.name == name), None)
        if found is None:
            known = ", ".join(metric.name for metric in cls.metrics)
            raise InputError(
                f"metric={name!r}: {cls.name} has {known}; write one of these, or return any other from train=."
            )
        if direction not in (None, found.direction):
            raise InputError(
                f"direction={direction!r}: of {found.name} {'more' if found.sign > 0 else 'less'} is better; leave "
                "direction out."
            )
        return found


def tensor_of(output: Any) -> Any:
    """The tensor in a model's output: the output itself, `.logits` (transformers), or the entry `out` (torchvision)."""
    if isinstance(output, Tensor):
        return output
    if isinstance(output, dict) and "out" in output:
        return output["out"]
    return getattr(output, "logits", output)


def shape_of(output: Any) -> Any:
    """The shape or type of a model's output, for messages."""
    output = tensor_of(output)
    return list(output.shape) if isinstance(output, Tensor) else type(output).__name__


def whole(name: str, what: str, y: Tensor) -> Tensor:
    """Class numbers as int64, also where they are stored as 0.0 and 1.0."""
    if y.is_complex() or (y.is_floating_point() and not bool((y == y.round()).all())):
        raise InputError(f"{name}: {what} are of type {y.dtype}; give whole numbers, the numbers of classes from 0.")
    return y.long()
