"""Formulas recorded once for each kind of call.

From then on a run costs one call of a kernel, where autograd took a few microseconds for every operator of the formula,
forward and backward. Only formulas of this package are recorded: what another one depends on cannot be known.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from normwise.backends import Backend, Programs, programs_of
from normwise.core.activations import Activation
from normwise.core.formulas import Formula
from normwise.core.moments import Moments, statistics_dtype

from .last_step import step_of
from .lowering import NotRecordable, lower
from .recording import Call, Recording
from .tiny_graph import Pulled, TinyGraph, is_ours, wide

_log = logging.getLogger("normwise")

#: Inputs and outputs of a program; it writes the outputs.
_Run = Callable[[Sequence[Tensor], Sequence[Tensor]], None]


class _Kind(NamedTuple):
    """What all calls of one kind have in common."""

    forward: _Run
    backward: _Run
    result: type  # of the formula: Affine, or a response
    tables: int
    statistics: tuple[tuple[torch.Size, torch.dtype], ...]  # mean, variance, and the count where it is a tensor
    count: tuple[int, ...]  # otherwise
    gradients: tuple[torch.Size | None, ...]  # of the parameters
    measured: bool


class RecordedFormula:
    """One run of a recorded formula, in the place of a `TinyGraph`."""

    def __init__(
        self, backend: Backend, kind: _Kind, inputs: Sequence[Tensor], x: Tensor, activation: Activation | None
    ) -> None:
        self.kind, self.inputs = kind, inputs
        dtype = statistics_dtype(x.dtype)
        around, *tables = torch.empty(1 + kind.tables, *x.shape[:2], dtype=dtype, device=x.device).unbind()
        statistics = [torch.empty(shape, dtype=kept, device=x.device) for shape, kept in kind.statistics]
        kind.forward(inputs, (around, *tables, *statistics))
        pooled = Moments(*statistics, *kind.count) if statistics else None
        self.step = step_of(kind.result, backend, around, tables, pooled, activation)

    def pull(self, grad_tables: Sequence[Tensor]) -> Pulled:
        """See `TinyGraph.pull`."""
        kind, like = self.kind, grad_tables[0]
        gradients = [None if shape is None else like.new_empty(shape) for shape in kind.gradients]
        backflow = like.new_empty(2, *like.shape).unbind() if kind.measured else ()
        inputs = (*self.inputs, *(t.contiguous() for t in grad_tables))
        kind.backward(inputs, (*(g for g in gradients if g is not None), *backflow))
        return Pulled(gradients, *(backflow or (None, None)))


#: The kinds that have come up; None where a formula has something that cannot be recorded.
_kinds: dict[Hashable, _Kind | None] = {}
#: More are not kept: a detection net brings new sizes for as long as it trains.
_MOST_KINDS = 1024


def recorded_formula(
    backend: Backend,
    formula: Formula,
    x: Tensor,
    table: Moments,
    parameters: tuple[Tensor | None, ...],
    activation: Activation | None,
    *,
    measured: bool,
    differentiable: bool,
) -> RecordedFormula | None:
    """The formula on a table by its programs, recorded now if this kind of call is the first; None where it cannot be."""
    able = programs_of(backend)
    if able is None or not is_ours(formula):
        return None
    try:
        occasion = _Occasion(formula, x, table, parameters, measured=measured, differentiable=differentiable)
        if occasion.key not in _kinds:
            if len(_kinds) >= _MOST_KINDS:
                _kinds.pop(next(iter(_kinds)))
            _kinds[occasion.key] = None
            _kinds[occasion.key] = occasion.record(able)
    except NotRecordable as reason:
        _log.debug("A formula runs operator by operator: %s", reason)
        return None
    kind = _kinds[occasion.key]
    return None if kind is None else RecordedFormula(backend, kind, occasion.tensors, x, activation)


class _Occasion:
    """A formula about to be run: its tensors, and apart from them all the rest, which is the key to its programs."""

    def __init__(
        self,
        formula: Formula,
        x: Tensor,
        table: Moments,
        parameters: tuple[Tensor | None, ...],
        *,
        measured: bool,
        differentiable: bool,
    ) -> None:
        self.x, self.parts = x, (table, tuple(wide(parameters)), formula)
        self.measured = differentiable and measured and x.requires_grad
        self.needs = tuple(differentiable and p is not None and p.requires_grad for p in parameters)
        tensors: list[Tensor] = []
        rest = _apart(self.parts, tensors)
        self.tensors = [t.detach().contiguous() for t in tensors]
        self.key = (rest, x.shape[:2], x.dtype, self.measured, self.needs)

    def record(self, backend: Programs) -> _Kind:
        """Run the formula, and what differentiates it, once under the eyes of a recording."""
        inputs = [t.clone() for t in self.tensors]  # in storages of their own
        table, parameters, formula = _together(self.parts, iter(inputs))
        for p, needed in zip(parameters, self.needs, strict=True):
            if needed:
                p.requires_grad_()
        with Recording() as recording:
            graph = TinyGraph(backend, formula, self.x, table, parameters, None, measured=self.measured)
        step, forward = graph.step, list(recording.calls)
        statistics = [t for t in step.statistics or () if isinstance(t, Tensor)]
        grads = [torch.linspace(-1, 2, t.numel(), dtype=t.dtype, device="cpu").view(t.shape) for t in step.tables]
        with recording:
            pulled = graph.pull(grads)
        backflow = () if pulled.slope is None or pulled.offset is None else (pulled.slope, pulled.offset)
        gradients = [g for g in pulled.parameters if g is not None]
        return _Kind(
            forward=self._program(backend, forward, inputs, [step.around, *step.tables, *statistics]),
            backward=self._program(backend, recording.calls, [*inputs, *grads], [*gradients, *backflow]),
            result=graph.result,
            tables=len(step.tables),
            statistics=tuple((t.shape, t.dtype) for t in statistics),
            count=tuple(n for n in step.statistics or () if not isinstance(n, Tensor)),
            gradients=tuple(None if g is None else g.shape for g in pulled.parameters),
            measured=bool(backflow),
        )

    def _program(
        self, backend: Programs, calls: Sequence[Call], inputs: Sequence[Tensor], outputs: Sequence[Tensor]
    ) -> _Run:
        """The program of the calls, once it has given what they gave."""
        run = backend.load(lower(calls, inputs, outputs), self.x.dtype)
        found = [torch.empty(t.shape, dtype=t.dtype, device="cpu") for t in outputs]
        run(inputs, found)
        for mine, expected in zip(found, outputs, strict=True):
            largest = expected.detach().abs().nan_to_num(posinf=0).max().item() if expected.numel() else 0.0
            if not torch.allclose(mine, expected.detach(), rtol=1e-3, atol=1e-3 * largest, equal_nan=True):
                raise NotRecordable("the program gives something else")
        return run


def _apart(value: Any, tensors: list[Tensor]) -> Hashable:
    """What stays of ``value`` when its tensors are taken out, each but for its shape and dtype."""
    if isinstance(value, Tensor):
        tensors.append(value)
        return value.shape, value.dtype
    if isinstance(value, tuple):
        return type(value), *(_apart(v, tensors) for v in value)
    if isinstance(value, partial):
        return value.func, *((name, _apart(v, tensors)) for name, v in value.keywords.items())
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
