"""The last call of a layer: one of the same kind is known again without a request to look its way up by.

In a net other work drives the interpreter's data out of the caches between two calls, so that every function and table
that a call goes through costs several times what it does in a loop.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

import torch
from torch import Tensor

from normwise.core.moments import Moments
from normwise.core.running import RunningStatistics

from .context import is_ordinary
from .normalize import Result, run
from .request import Request
from .ways.choosing import ABSENT, Way, seen_by, state_of_torch, way_for

_autocast_enabled = torch._C._is_any_autocast_enabled  # pyright: ignore[reportAttributeAccessIssue]
#: In the places of a residual and a mask, and of what a layer lacks.
_, _RESIDUAL, _MASK, _WEIGHT, _BIAS, _COUNTED_BEFORE, _, _COUNTED_BEHIND, *_ = ABSENT
Parameters = tuple[Tensor | None, ...]


class Recent:
    """A call of a layer without a mask, by everything but its tensors' values."""

    __slots__ = ("_before", "_behind", "_numbers", "_seen", "_state", "_way")

    def __init__(self, way: Way | None = None, numbers: Hashable = None, request: Request | None = None) -> None:
        self._way, self._numbers, self._state = way, numbers, state_of_torch()
        self._seen: Any = None if way is None else seen_by(way)
        if request is not None:  # tensors, known statistics and memory are those of each call
            self._before, self._behind = request[1:4:2], request[8:]

    def run(self, numbers: Hashable, x: Tensor, residual: Tensor | None, parameters: Parameters) -> Tensor | None:
        """``y`` of a call of this kind; None of another, or where something unusual is going on."""
        request = self._again(numbers, x, residual, parameters, ())
        return None if request is None else self._way.run(request)[0]  # type: ignore[union-attr]

    def run_by_known(
        self, numbers: Hashable, x: Tensor, residual: Tensor | None, parameters: Parameters, running: RunningStatistics
    ) -> Tensor | None:
        """The same by given statistics."""
        mean, var, batches, _ = running
        of_known = _COUNTED_BEFORE if batches is None else batches, mean, var
        request = self._again(numbers, x, residual, parameters, of_known, None, Moments(mean, var, 1))
        return None if request is None else self._way.run(request)[0]  # type: ignore[union-attr]

    def measure(
        self,
        numbers: Hashable,
        x: Tensor,
        residual: Tensor | None,
        parameters: Parameters,
        memory: RunningStatistics | None,
    ) -> Result | None:
        """The same with the statistics, which ``memory`` may take in."""
        of_memory: tuple[Tensor, ...] = ()
        if memory is not None:
            mean, var, batches, _ = memory
            of_memory = mean, var, _COUNTED_BEHIND if batches is None else batches
        request = self._again(numbers, x, residual, parameters, of_memory, memory)
        if request is None:
            return None
        y, kept = self._way.run(request)  # type: ignore[union-attr]
        return Result(y, request, self._way, kept)  # type: ignore[arg-type]

    def _again(
        self,
        numbers: Hashable,
        x: Tensor,
        residual: Tensor | None,
        parameters: Parameters,
        others: tuple[Tensor, ...],
        memory: RunningStatistics | None = None,
        known: Moments | None = None,
    ) -> Request | None:
        """The request of a call of this kind."""
        if not is_ordinary() or self._seen is None or _autocast_enabled() or self._numbers != numbers:
            return None
        if type(x) is not Tensor or self._state != state_of_torch():
            return None
        weight, bias = parameters
        tensors = x, _RESIDUAL if residual is None else residual, _MASK
        of_layer = _WEIGHT if weight is None else weight, _BIAS if bias is None else bias
        if not self._seen.check(*tensors, *of_layer, *others):
            return None
        formula, activation = self._before
        asked = x, formula, parameters, activation, residual, None, known, memory
        return tuple.__new__(Request, (*asked, *self._behind))


def run_and_keep(layer: Any, numbers: Hashable, request: Request, check: Callable[[Request], None]) -> Tensor:
    """``y``; ``layer._recent`` is then this call. ``numbers`` are all that request and check take of the layer."""
    if request.mask is not None or _autocast_enabled() or not is_ordinary():
        return run(request, check).y
    way = way_for(request, check)
    keep(layer, numbers, request, way)
    return way.run(request)[0]


def keep(layer: Any, numbers: Hashable, request: Request, way: Way) -> None:
    """Let ``layer._recent`` be this call, if its way stays."""
    if is_ordinary() and request.mask is None and seen_by(way) is not None:
        layer.__dict__["_recent"] = Recent(way, numbers, request)
