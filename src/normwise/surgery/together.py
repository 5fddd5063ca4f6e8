"""One tool in several processes, each with a copy of the model and its own data."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from ..core.processes import ProcessGroup, gather, resolve_group
from .population import Population


class Together:
    """The processes of a group, or this one alone.

    None is the default group where `torch.distributed` is initialized.
    """

    def __init__(self, group: ProcessGroup | str | None, caller: str) -> None:
        if isinstance(group, str) and group != "world":
            raise ValueError(f"{caller}: process_group must be 'world', a ProcessGroup or None, received {group!r}.")
        distributed = torch.distributed
        if group is None and distributed.is_available() and distributed.is_initialized():
            group = "world"
        self._group, self._caller = resolve_group(group), caller

    def __bool__(self) -> bool:
        return self._group is not None

    @contextmanager
    def in_step(self) -> Iterator[None]:
        """Context manager: all processes leave the block together, and with an exception if any of them has one."""
        failure: Exception | None = None
        try:
            yield
        except Exception as error:
            if self._group is None:
                raise
            failure = error
        for rank, failed in enumerate(
            self.collect(None if failure is None else f"{type(failure).__name__}: {failure}")
        ):
            if failure is None and failed is not None:
                raise RuntimeError(f"{self._caller}: process {rank} of the group failed with {failed}")
        if failure is not None:
            raise failure

    def collect(self, item: Any) -> list[Any]:
        """The items of all processes, in the order of their ranks."""
        if self._group is None:
            return [item]
        items: list[Any] = [None] * torch.distributed.get_world_size(self._group)
        torch.distributed.all_gather_object(items, item, group=self._group)
        return items

    def pooled(self, population: Population, like: Tensor) -> Population:
        """The population of all processes; ``like`` has the layer's channels and device."""
        return population if self._group is None else population.over(self._group, like)

    def first(self, t: Tensor) -> Tensor:
        """The tensor of the first process."""
        return t if self._group is None else gather(t, self._group)[0]
