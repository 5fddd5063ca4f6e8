"""The last call of a layer: the next one of the same kind takes its way again, without the search in `way_for`.

In a net, other work evicts the interpreter's data from the caches between two calls, so that every function and table
that a call uses costs several times as much as in a loop.
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
#: Placeholders for an absent residual, mask, parameter or counter.
_, _RESIDUAL, _MASK, _WEIGHT, _BIAS, _COUNTED_BEFORE, _, _COUNTED_BEHIND, *_ = ABSENT
Parameters = tuple[Tensor | None, ...]


class Recent:
    """One call of a layer without a mask: everything but the values of its tensors."""

    __slots__ = ("_before", "_behind", "_numbers", "_seen", "_state", "_way")

    def __init__(self, way: Way | None = None, numbers: Hashable = None, request: Request | None = None) -> None:
        self._way, self._numbers, self._state = way, numbers, state_of_torch()
        self._seen: Any = None if way is None else seen_by(way)
        if request is not None:  # tensors, known statistics and memory are different in each call
            self._before, self._behind = request[1:4:2], request[8:]

    def run(self, numbers: Hashable, x: Tensor, residual: Tensor | None, parameters: Parameters) -> Tensor | None:
        """``y`` of a call of this kind; None for another kind, or under an unusual mode of torch."""
        request = self._again(numbers, x, residual, parameters, ())
        return None if request is None else self._way.run(request)[0]  # type: ignore[union-attr]

    def run_by_known(
        self, numbers: Hashable, x: Tensor, residual: Tensor | None, parameters: Parameters, running: RunningStatistics
    ) -> Tensor | None:
        """`run` with the running statistics."""
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
        """`run` with the statistics of the batch, for an update of ``memory``."""
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
        """The request of a call of this kind; None for another."""
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
    """``y``; `keep` the call. ``numbers`` are all numbers of the layer that the request and its check use."""
    if request.mask is not None or _autocast_enabled() or not is_ordinary():
        return run(request, check).y
    way = way_for(request, check)
    keep(layer, numbers, request, way)
    return way.run(request)[0]


def keep(layer: Any, numbers: Hashable, request: Request, way: Way) -> None:
    """Set ``layer._recent`` to this call, if its way is kept."""
    if is_ordinary() and request.mask is None and seen_by(way) is not None:
        layer.__dict__["_recent"] = Recent(way, numbers, request)
