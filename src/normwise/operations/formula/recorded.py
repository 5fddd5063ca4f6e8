"""Formulas recorded once for each kind of call.

After the recording a pass is one call of the kernels; autograd would take a few microseconds for every operator of the
formula. Only pure formulas are recorded, those of this package and those that are marked: nothing is known of what
another formula depends on.
"""

from __future__ import annotations

import logging
from collections.abc import Hashable, Sequence
from functools import partial
from typing import Any

from torch import Tensor

from normwise.backends import Backend, Formulas, offering
from normwise.core.activations import Activation
from normwise.core.evident import is_copy
from normwise.core.formulas import Formula
from normwise.core.lasting import lasting
from normwise.core.moments import Moments, statistics_dtype, widen

from .formula_call import FormulaCall
from .lowering import NotRecordableError
from .programs import Kind, record
from .tiny_graph import is_recordable

_log = logging.getLogger("normwise")


class RecordedRun:
    """One pass of a recorded formula over a tensor; see `Run`."""

    def __init__(
        self, backend: Formulas, kind: Kind, call: FormulaCall, activation: Activation | None, mask: Tensor | None
    ) -> None:
        self.backend, self.kind, self.call, self.mask = backend, kind, call, mask
        self.formula, self.given = call.formula, call.given
        self.behind, self.activation = (activation, None) if kind.is_response else (None, activation)
        self.widened, self.statistics = False, call.table

    def forward(self, x: Tensor, residual: Tensor | None, parameters: Sequence[Tensor | None]) -> Tensor:
        kind, call = self.kind, self.call
        self.widened = self.behind is not None and statistics_dtype(x.dtype) is not x.dtype
        if self.widened:
            x, residual = widen(x), None if residual is None else widen(residual)
        found: list[Any] = [form.new(x) for form in kind.statistics]
        what = (x, residual, self.activation, self.mask, call.tensors, found)
        y, self.tables = self.backend.normalize(kind.prepared, *what, measured=self.given is None)
        if len(found) == 2:
            found.append(kind.count + kind.planes * call.size)
        if found:
            self.statistics = Moments(*found)
        return y

    def backward(
        self, grad_y: Tensor, x: Tensor, residual: Tensor | None, *, values: bool
    ) -> tuple[Tensor | None, Tensor | None, list[Tensor | None]]:
        self.call.check_constants()
        kind = self.kind
        gradients = [None if form is None else form.new(x) for form in kind.gradients]
        found = [g for g in gradients if g is not None]
        what = (grad_y, x, residual, self.activation, self.mask, self.call.tensors, found, self.tables)
        pair = self.backend.normalize_backward(kind.prepared, *what, measured=kind.flows, values=values)
        return pair[0], pair[1], gradients


#: The kinds of call so far; None where a formula has an operation that cannot be recorded.
_kinds: dict[Hashable, Kind | None] = {}
#: At most so many are kept: a detection net has new sizes as long as it trains.
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
    """The pass by the formula's programs, recorded at the first call of this kind; None where it cannot be recorded."""
    able = offering(backend, Formulas)  # type: ignore[type-abstract]
    if able is None or not is_recordable(formula):
        return None
    if not isinstance(formula, partial):
        formula = partial(formula)
    if formula.args:
        return None
    if residual is not None and residual.dtype != x.dtype:
        return None
    try:
        call = FormulaCall(formula, x, mask, moments, parameters, differentiable=differentiable)
    except NotRecordableError:
        return None
    kind = _kind_of(call, able, x)
    return None if kind is None else RecordedRun(able, kind, call, activation, mask)


def _kind_of(call: FormulaCall, backend: Formulas, x: Tensor) -> Kind | None:
    """The programs for this kind of call, recorded if it is the first; None where they cannot be recorded."""
    key = (backend.name, *call.key)
    if key in _kinds:
        return _kinds[key]
    if len(_kinds) >= _MOST_KINDS:
        _kinds.clear()
    kind = None
    try:
        with lasting():
            kind = record(call, backend, x)
    except NotRecordableError as reason:
        level = logging.DEBUG if is_copy(call.formula.func) else logging.WARNING  # nobody asked for a recording
        _log.log(level, "%s runs operator by operator, slower: %s.", call.formula.func.__name__, reason)
    _kinds[key] = kind
    return kind
