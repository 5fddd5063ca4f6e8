"""Formulas recorded once for each kind of call.

From then on a pass is one call of the kernels, where autograd takes a few microseconds for every operator of the
formula. Only formulas of this package are recorded: what another one depends on cannot be known.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Hashable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from normwise.backends import Backend, Formulas, formulas_of
from normwise.core.activations import Activation
from normwise.core.formulas import Affine, Formula
from normwise.core.moments import Moments, table_dtype
from normwise.core.program import Program
from normwise.core.program import RecordedFormula as Recorded
from normwise.core.responses import RESPONSES, Responding

from .lowering import NotRecordableError, lower
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
        return pair[0], pair[1], gradients


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
    if able is None or not isinstance(formula, partial) or formula.args or not is_ours(formula):
        return None
    if residual is not None and residual.dtype != x.dtype:
        return None
    try:
        occasion = _Occasion(formula, x, mask, moments, parameters, differentiable=differentiable)
    except NotRecordableError:
        return None
    kind = _kind_of(occasion, able, x)
    return None if kind is None else RecordedRun(able, kind, occasion, activation, mask)


def _kind_of(occasion: _Occasion, backend: Formulas, x: Tensor) -> _Kind | None:
    if occasion.key in _kinds:
        return _kinds[occasion.key]
    if len(_kinds) >= _MOST_KINDS:
        _kinds.clear()
    kind = None
    try:
        kind = occasion.record(backend, x)
    except NotRecordableError as reason:
        _log.warning("%s runs operator by operator, slower: %s.", occasion.formula.func.__name__, reason)
    _kinds[occasion.key] = kind
    return kind


class _Occasion:
    """A formula about to be run: its tensors, and apart from them all the rest, which is the key to its programs."""

    def __init__(
        self,
        formula: partial[Affine | Responding],
        x: Tensor,
        mask: Tensor | None,
        given: Moments | None,
        parameters: tuple[Tensor | None, ...],
        *,
        differentiable: bool,
    ) -> None:
        self.formula, self.given = formula, given
        self.table = given.detached() if given is not None else _unmeasured(x, mask)
        self.parameters = wide(parameters)
        self.flows = differentiable and given is None and x.requires_grad
        self.needs = tuple(differentiable and p is not None and p.requires_grad for p in parameters)
        tensors: list[Tensor] = []
        rest = [_apart(values, tensors) for values in (self.table, self.parameters, formula.keywords.values())]
        self.tensors = [t if t.is_contiguous() else t.contiguous() for t in tensors]
        self.key = (formula.func, *formula.keywords, *rest, x.shape[:2], x.dtype, given is None, self.flows, self.needs)

    def record(self, backend: Formulas, x: Tensor) -> _Kind:
        """Run the formula, and what differentiates it, once under the eyes of a recording."""
        inputs = _examples(self.tensors)
        others = iter(inputs)
        table = Moments(*_together(self.table, others))
        parameters = _together(self.parameters, others)
        constants = dict(zip(self.formula.keywords, _together(self.formula.keywords.values(), others), strict=True))
        formula = partial(self.formula.func, **constants)
        for p, needed in zip(parameters, self.needs, strict=True):
            if needed:
                p.requires_grad_()
        with Recording() as recording:
            graph = TinyGraph(backend, formula, x, table, parameters, None, measured=self.flows)
        step, forward = graph.step, list(recording.calls)
        statistics = [t for t in step.statistics or () if isinstance(t, Tensor)]
        grads = _examples(step.tables)
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
    scale = max((t.detach().abs().max().item() for t in outputs if t.numel()), default=0.0)
    for mine, expected in zip(found, outputs, strict=True):
        if not torch.allclose(mine, expected.detach(), rtol=1e-3, atol=1e-5 * scale):
            raise NotRecordableError("its program gives something else")
    return program


def _examples(like: Sequence[Tensor]) -> list[Tensor]:
    """Tensors in storages of their own, with values from 0.5 to 1.5, all different, that any formula can take."""
    found = []
    for number, t in enumerate(like):
        values = torch.arange(t.numel(), dtype=torch.float64, device=t.device).add_(1 + 0.37 * number)
        found.append(values.mul_(0.6180339887).remainder_(1).add_(0.5).to(t.dtype).view(t.shape))
    return found


def _apart(values: Iterable[Any], tensors: list[Tensor]) -> Hashable:
    """What stays of ``values`` when their tensors are taken out, each but for its shape and dtype."""
    rest: list[Hashable] = []
    for value in values:
        if isinstance(value, Tensor):
            if value.dtype is not torch.float32 and value.dtype is not torch.float64:
                raise NotRecordableError(f"a constant of {value.dtype}")
            tensors.append(value)
            rest.append((value.shape, value.dtype))
        elif isinstance(value, tuple):
            rest.append((type(value), _apart(value, tensors)))
        elif value is None or isinstance(value, (bool, int, float, str)):
            rest.append(value)
        else:
            raise NotRecordableError(f"a constant of type {type(value).__name__}")
    return tuple(rest)


def _together(values: Iterable[Any], tensors: Iterator[Tensor]) -> list[Any]:
    """``values`` with other tensors, in the order of `_apart`."""
    found: list[Any] = []
    for value in values:
        if isinstance(value, Tensor):
            found.append(next(tensors))
        elif isinstance(value, tuple):
            parts = _together(value, tensors)
            found.append(type(value)(*parts) if hasattr(value, "_fields") else tuple(parts))
        else:
            found.append(value)
    return found
