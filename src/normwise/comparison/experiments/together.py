"""Runs that several processes do together, each with the user's function: data-parallel training under torchrun."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any

import torch.distributed as dist

from ..metric import as_number
from ..settings import InputError, Run
from .experiment import Row

# The first process may wait long, for another sweep in its folder, before it begins the next run.
PATIENCE = timedelta(days=30)
# The tolerance for one number that each process has summed in a different order.
ALIKE = 1e-4

TakePart = Callable[[Run, float | None, bool], object]


def in_several_processes() -> bool:
    """Whether this is one process of a group that trains together."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def check_processes(train: bool, alone: bool) -> None:
    """Raises InputError if torchrun has started processes that cannot do runs together. `train`: whether there is a
    user's function; `alone`: whether each process was given its own part of the sweep."""
    if in_several_processes():
        if not train:
            raise InputError(
                f"Our own loop trains in one process, and this is a group of {dist.get_world_size()}; give train=, or "
                "call compare before torch.distributed.init_process_group()."
            )
        return
    started = int(os.environ.get("WORLD_SIZE", "1")) if "TORCHELASTIC_RUN_ID" in os.environ else 1
    if started > 1 and train and not alone:
        raise InputError(
            f"torchrun has started {started} processes without a process group; call "
            "torch.distributed.init_process_group() before compare(train=...), so that they do each run together."
        )


class Together:
    """The processes of torch's default group: the first of them chooses each run, and all of them do it.

    Messages about the sweep have their own process group, so that they cannot mix with those of a training.
    """

    def __init__(self) -> None:
        self.rank, self.processes = dist.get_rank(), dist.get_world_size()
        self._group: Any = dist.new_group(timeout=PATIENCE, backend="gloo")

    def announce(self, run: Run, rate: float | None, choosing: bool) -> None:
        """The first process tells the others the next run."""
        if self.rank == 0:
            self._tell((tuple(run), rate, choosing))

    @contextmanager
    def leading(self) -> Iterator[list[Row]]:
        """Context manager for the sweep of the first process: at its end the others get the rows in the list, or the
        error."""
        rows: list[Row] = []
        try:
            yield rows
        except BaseException as error:
            with suppress(RuntimeError):  # where one of them is gone
                self._tell(f"{type(error).__name__}: {error}")
            raise
        self._tell(rows)

    def follow(self, take_part: TakePart) -> list[Row]:
        """Take part in the runs that the first process announces until it ends; returns its rows.

        Raises RuntimeError if it ended with an error.
        """
        while True:
            told: list[Any] = [None]
            dist.broadcast_object_list(told, group_src=0, group=self._group)
            order = told[0]
            if isinstance(order, str):
                raise RuntimeError(f"The first process has ended: {order}")
            if isinstance(order, list):
                return order
            run, rate, choosing = order
            take_part(Run(*run), rate, choosing)

    def joined(self, outcome: Row, metric: str) -> Row:
        """The outcome of a run of all processes: that of the first, or the failure of any.

        The others may return the same metric or None; a metric that differs from the first one's is a failure.
        """
        outcomes: list[Any] = [None] * self.processes
        dist.all_gather_object(outcomes, outcome, group=self._group)
        failed = [rank for rank, each in enumerate(outcomes) if each["status"] == "failed"]
        if failed:
            where = f"In process {failed[0]} of {self.processes}: " if len(failed) < self.processes else ""
            return outcomes[failed[0]] | {"message": where + outcomes[failed[0]]["message"]}
        values = [as_number(each["metrics"].get(metric)) for each in outcomes]
        apart = next((rank for rank, value in enumerate(values) if not _alike(value, values[0])), None)
        if apart is None:
            return outcomes[0]
        message = (
            f"{metric} is {values[0]:g} in process 0 and {values[apart]:g} in process {apart}; average it over all "
            "(torch.distributed.all_reduce) before it is returned, or return None in all processes but the first."
        )
        return outcomes[0] | {"status": "failed", "message": message, "value": None}

    def _tell(self, what: Any) -> None:
        dist.broadcast_object_list([what], group_src=0, group=self._group)


def _alike(value: float | None, first: float | None) -> bool:
    return value is None or first is None or math.isclose(value, first, rel_tol=ALIKE)
