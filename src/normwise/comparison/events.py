"""The events that a running sweep passes to `on_event`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from .metric import Metric
from .settings import Run


class Try(NamedTuple):
    """The result of one learning rate for one contestant at one batch size: the metric and, if known, the loss, both
    on the validation part. A value of None means that the run had no finite metric."""

    norm: str
    batch_size: int
    rate: float
    value: float | None
    loss: float | None = None


@dataclass(frozen=True, kw_only=True)
class Event:
    """`done` of `total` runs are finished; `work_done` is the share of the whole sweep's work, from 0 to 1;
    `seconds_left` is the estimated time to the end of the sweep."""

    done: int
    total: int
    work_done: float
    seconds_left: float


@dataclass(frozen=True, kw_only=True)
class SweepStarted(Event):
    """All checks have passed; `done` counts the runs found finished in `out`.

    `about` is what `settings.json` holds: settings, data, protocol, machine and versions.
    """

    out: Path | None
    about: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class RateTried(Event):
    """Before `SweepStarted`: one learning rate of `lrs` was tried; `done` and `total` count these tries."""

    tried: Try
    metric: Metric


@dataclass(frozen=True, kw_only=True)
class RunStarted(Event):
    run: Run


@dataclass(frozen=True, kw_only=True)
class EpochFinished(Event):
    """`train_loss` is None where it is not finite, or was not reported; `value` is the sweep's metric."""

    run: Run
    epoch: int
    epochs: int
    train_loss: float | None
    metric: Metric
    value: float | None


@dataclass(frozen=True, kw_only=True)
class RunFinished(Event):
    run: Run
    row: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class RunSkipped(Event):
    """The run was found finished; `row` is its earlier result."""

    run: Run
    row: dict[str, Any]
