"""Formulas recorded once for each kind of call.

From then on a pass is one call of the kernels, where autograd takes a few microseconds for every operator of the
formula. Only formulas of this package are recorded: what another one depends on cannot be known.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Hashable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from normwise.backends import Backend, Formulas, formulas_of
from normwise.core.activations import Activation
from normwise.core.formulas import Formula
from normwise.core.moments import Moments, statistics_dtype, table_dtype
from normwise.core.program import Program
from normwise.core.program import RecordedFormula as Recorded
from normwise.core.responses import RESPONSES

from .lowering import NotRecordable, lower
from .recording import Call, Recording
from .tiny_graph import TinyGraph, is_ours, wide

_log = logging.getLogger("normwise")


class _Kind(NamedTuple):
    """What all calls of one kind have in common."""

    prepared: Any
    is_response: bool
    statistics: tuple[tuple[torch.Size, torch.dtype], ...]  # mean, variance, and the count where it is a tensor
    count: tuple[int, ...]  # otherwise
    gradients: tuple[torch.Size | None, ...]  # of the parameters
    flows: bool  # a gradient back through the moments


class RecordedRun:
    """One pass of a recorded formula over a tensor; see `Run`."""

    def __init__(
        self, backend: Formulas, kind: _Kind, occasion: _Occasion, activation: Activation | None, mask: Tensor | None
    ) -> None:
        self.backend, self.kind, self.occasion, self.mask = backend, kind, occasion, mask
        self.formula, self.given = occasion.formula, occasion.given
        self.behind, self.activation = (activation, None) if kind.is_response else (None, activation)
        self.statistics = occasion.table

    def forward(self, x: Tensor, residual: Tensor | None, _parameters: Sequence[Tensor | None]) -> Tensor:
        kind, occasion = self.kind, self.occasion
        found = [torch.empty(shape, dtype=dtype, device=x.device) for shape, dtype in kind.statistics]
        what = (x, residual, self.activation, self.mask, occasion.tensors, found)
        y, self.tables = self.backend.normalize(kind.prepared, *what, measured=self.given is None)
        if found:
            self.statistics = Moments(*found, *kind.count)
        return y

    def backward(
        self, grad_y: Tensor, x: Tensor, residual: Tensor | None, *, values: bool
    ) -> tuple[Tensor | None, Tensor | None, list[Tensor | None]]:
        kind, dtype = self.kind, self.tables.dtype
        gradients = [None if s is None else torch.empty(s, dtype=dtype, device=x.device) for s in kind.gradients]
        found = [g for g in gradients if g is not None]
        what = (grad_y, x, residual, self.activation, self.mask, self.occasion.tensors, found, self.tables)
        pair = self.backend.normalize_backward(kind.prepared, *what, measured=kind.flows, values=values)
        return *pair, gradients


#: The kinds that have come up; None where a formula has something that cannot be recorded.
_kinds: dict[Hashable, _Kind | None] = {}
#: More are not kept: a detection net brings new sizes for as long as it trains.
_MOST_KINDS = 1024


def recorded_run(
    backend: Backend,
    formula: Formula,
    x: Tensor,
    residual: Tensor | None,
    mask: Tensor | None,
    moments: Moments | None,
    parameters: tuple[Tensor | None, ...],
    activation: Activation | None,
    *,
    differentiable: bool,
) -> RecordedRun | None:
    """The pass by the formula's programs, which are recorded now if this kind is the first; None where it cannot be."""
    able = formulas_of(backend)
    if able is None or not is_ours(formula) or (residual is not None and residual.dtype != x.dtype):
        return None
    try:
        occasion = _Occasion(formula, x, mask, moments, parameters, differentiable=differentiable)
        if occasion.key not in _kinds:
            if len(_kinds) >= _MOST_KINDS:
                _kinds.pop(next(iter(_kinds)))
            _kinds[occasion.key] = None
            _kinds[occasion.key] = occasion.record(able, x, mask)
    except NotRecordable as reason:
        _log.debug("A formula runs operator by operator: %s", reason)
        return None
    kind = _kinds[occasion.key]
    return None if kind is None else RecordedRun(able, kind, occasion, activation, mask)


class _Occasion:
    """A formula about to be run: its tensors, and apart from them all the rest, which is the key to its programs."""

    def __init__(
        self,
        formula: Formula,
        x: Tensor,
        mask: Tensor | None,
        given: Moments | None,
        parameters: tuple[Tensor | None, ...],
        *,
        differentiable: bool,
    ) -> None:
        self.formula, self.given = formula, given
        self.table = given.detached() if given is not None else _unmeasured(x, mask)
        self.parts = (self.table, tuple(wide(parameters)), formula)
        self.flows = differentiable and given is None and x.requires_grad
        self.needs = tuple(differentiable and p is not None and p.requires_grad for p in parameters)
        tensors: list[Tensor] = []
        rest = _apart(self.parts, tensors)
        self.tensors = [t if t.is_contiguous() else t.contiguous() for t in tensors]
        self.key = (rest, x.shape[:2], x.dtype, given is None, self.flows, self.needs)

    def record(self, backend: Formulas, x: Tensor, mask: Tensor | None) -> _Kind:
        """Run the formula, and what differentiates it, once under the eyes of a recording."""
        inputs = [t.detach().clone() for t in self.tensors]  # in storages of their own
        table, parameters, formula = _together(self.parts, iter(inputs))
        if self.given is None:
            for t, measured in zip(table, backend.moments(x.detach(), mask), strict=True):
                if isinstance(t, Tensor):
                    t.copy_(measured)
        for p, needed in zip(parameters, self.needs, strict=True):
            if needed:
                p.requires_grad_()
        with Recording() as recording:
            graph = TinyGraph(backend, formula, x, table, parameters, None, measured=self.flows)
        step, forward = graph.step, list(recording.calls)
        statistics = [t for t in step.statistics or () if isinstance(t, Tensor)]
        grads = [torch.linspace(-1, 2, t.numel(), dtype=t.dtype, device=t.device).view(t.shape) for t in step.tables]
        with recording:
            pulled = graph.pull(grads)
        backflow = () if pulled.slope is None or pulled.offset is None else (pulled.slope, pulled.offset)
        made = [*(g for g in pulled.parameters if g is not None), *backflow]
        recorded = Recorded(
            _checked(backend, x.dtype, forward, inputs, [step.around, *step.tables, *statistics]),
            _checked(backend, x.dtype, recording.calls, [*inputs, *grads], made),
            len(step.tables),
            RESPONSES.get(graph.result),
        )
        return _Kind(
            prepared=backend.prepare(recorded),
            is_response=recorded.response is not None,
            statistics=tuple((t.shape, t.dtype) for t in statistics),
            count=tuple(n for n in step.statistics or () if not isinstance(n, Tensor)),
            gradients=tuple(None if g is None else g.shape for g in pulled.parameters),
            flows=bool(backflow),
        )


def _unmeasured(x: Tensor, mask: Tensor | None) -> Moments:
    """Room for the moments of ``x``."""
    kind, shape = table_dtype(x), x.shape[:2]
    mean, var = torch.empty(2, *shape, dtype=kind, device=x.device).unbind()
    if mask is None:
        return Moments(mean, var, math.prod(x.shape[2:]))
    return Moments(mean, var, torch.empty(shape[0], 1, dtype=kind, device=x.device))


def _checked(
    backend: Formulas, dtype: torch.dtype, calls: Sequence[Call], inputs: Sequence[Tensor], outputs: Sequence[Tensor]
) -> Program:
    """The program of the calls, once it has given what they gave."""
    program = lower(calls, inputs, outputs)
    found = [torch.empty(t.shape, dtype=t.dtype, device=t.device) for t in outputs]
    backend.run(program, dtype, inputs, found)
    for mine, expected in zip(found, (t.detach() for t in outputs), strict=True):
        largest = expected.nan_to_num(posinf=0, neginf=0).abs().max().item() if expected.numel() else 0.0
        if not torch.allclose(mine, expected, rtol=1e-3, atol=1e-3 * largest, equal_nan=True):
            raise NotRecordable("the program gives something else")
    return program


def _apart(value: Any, tensors: list[Tensor]) -> Hashable:
    """What stays of ``value`` when its tensors are taken out, each but for its shape and dtype."""
    if isinstance(value, Tensor):
        tensors.append(value)
        return value.shape, value.dtype
    if isinstance(value, tuple):
        return type(value), *[_apart(v, tensors) for v in value]
    if isinstance(value, partial):
        return value.func, *[(name, _apart(v, tensors)) for name, v in value.keywords.items()]
    if value is None or isinstance(value, (bool, int, float, str)) or callable(value):
        return value
    raise NotRecordable(f"a constant of type {type(value).__name__}")


def _together(value: Any, tensors: Iterator[Tensor]) -> Any:
    """``value`` with other tensors, in the order of `_apart`."""
    if isinstance(value, Tensor):
        return next(tensors)
    if isinstance(value, tuple):
        parts = [_together(v, tensors) for v in value]
        return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
    if isinstance(value, partial):
        return partial(value.func, **{name: _together(v, tensors) for name, v in value.keywords.items()})
    return value
