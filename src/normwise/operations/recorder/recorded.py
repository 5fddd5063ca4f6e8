"""Formulas recorded once for each kind of call.

From then on a pass is one call of the kernels, where autograd takes a few microseconds for every operator of the
formula. Only pure formulas are recorded, those of this package and marked ones: what another one depends on cannot be
known.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Hashable, Iterable, Iterator, Sequence
from functools import cache, partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from normwise.backends import Backend, Formulas, offering
from normwise.core.activations import Activation
from normwise.core.formulas import Affine, Formula
from normwise.core.lasting import lasting
from normwise.core.layout import PLAIN
from normwise.core.moments import Count, Moments, statistics_dtype, widen
from normwise.core.precision import table_dtype
from normwise.core.program import Program
from normwise.core.program import RecordedFormula as Recorded
from normwise.core.responses import RESPONSES, Responding

from ..tiny_graph import TinyGraph, is_recordable, wide
from .lowering import Lowering, NotRecordableError
from .recording import Recording

_log = logging.getLogger("normwise")


class _Form(NamedTuple):
    """The shape and dtype of a tensor that a program writes."""

    shape: torch.Size
    dtype: torch.dtype

    def new(self, x: Tensor) -> Tensor:
        return torch.empty(self.shape, dtype=self.dtype, device=x.device)


class _Kind(NamedTuple):
    """What all calls of one kind have in common."""

    prepared: Any
    is_response: bool
    statistics: tuple[_Form, ...]  # mean, variance, and the counts where they differ
    count: int  # otherwise: this number,
    planes: int  # and the values of so many planes
    gradients: tuple[_Form | None, ...]  # of the parameters
    flows: bool  # a gradient back through the moments


class RecordedRun:
    """One pass of a recorded formula over a tensor; see `Run`."""

    def __init__(
        self, backend: Formulas, kind: _Kind, occasion: _Occasion, activation: Activation | None, mask: Tensor | None
    ) -> None:
        self.backend, self.kind, self.occasion, self.mask = backend, kind, occasion, mask
        self.formula, self.given = occasion.formula, occasion.given
        self.behind, self.activation = (activation, None) if kind.is_response else (None, activation)
        self.widened, self.statistics = False, occasion.table

    def forward(self, x: Tensor, residual: Tensor | None, parameters: Sequence[Tensor | None]) -> Tensor:
        kind, occasion = self.kind, self.occasion
        self.widened = self.behind is not None and statistics_dtype(x.dtype) is not x.dtype
        if self.widened:
            x, residual = widen(x), None if residual is None else widen(residual)
        found: list[Any] = [form.new(x) for form in kind.statistics]
        what = (x, residual, self.activation, self.mask, occasion.tensors, found)
        y, self.tables = self.backend.normalize(kind.prepared, *what, measured=self.given is None)
        if len(found) == 2:
            found.append(kind.count + kind.planes * occasion.size)
        if found:
            self.statistics = Moments(*found)
        return y

    def backward(
        self, grad_y: Tensor, x: Tensor, residual: Tensor | None, *, values: bool
    ) -> tuple[Tensor | None, Tensor | None, list[Tensor | None]]:
        self.occasion.check_constants()
        kind = self.kind
        gradients = [None if form is None else form.new(x) for form in kind.gradients]
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
        occasion = _Occasion(formula, x, mask, moments, parameters, differentiable=differentiable)
    except NotRecordableError:
        return None
    kind = _kind_of(occasion, able, x)
    return None if kind is None else RecordedRun(able, kind, occasion, activation, mask)


def _kind_of(occasion: _Occasion, backend: Formulas, x: Tensor) -> _Kind | None:
    key = (backend.name, *occasion.key)
    if key in _kinds:
        return _kinds[key]
    if len(_kinds) >= _MOST_KINDS:
        _kinds.clear()
    kind = None
    try:
        with lasting():
            kind = occasion.record(backend, x)
    except NotRecordableError as reason:
        _log.warning("%s runs operator by operator, slower: %s.", occasion.formula.func.__name__, reason)
    _kinds[key] = kind
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
        self.size = math.prod(x.shape[2:])
        self.table = _unmeasured(x, mask) if given is None else given.detached()
        # The size of the planes enters as a tensor: it changes from image to image, and the programs stay the same. But
        # a formula may ask whether it is 1.
        number = given is not None or mask is not None or self.size == 1
        self.entering = self.table if number else self.table._replace(count=_as_tensor(self.size))
        self.parameters = wide(parameters, x)
        self.flows = differentiable and given is None and x.requires_grad
        self.needs = tuple(differentiable and p is not None and p.requires_grad for p in parameters)
        tensors: list[Tensor] = []
        rest = [_apart(values, tensors) for values in (self.entering, self.parameters)]
        constants: list[Tensor] = [] if given is None else [given.mean, given.var]
        before = len(tensors)
        rest.append(_apart(formula.keywords.values(), tensors))
        constants += tensors[before:]
        #: Neither measured here nor saved as a parameter is: the backward reads them again.
        self.constants = [(t, t._version) for t in constants if not t.is_inference()]
        self.tensors = [t if t.is_contiguous() else t.contiguous() for t in tensors]
        kind = (x.shape[:2], statistics_dtype(x.dtype), given is None, self.flows, self.needs)
        self.key = (formula.func, *formula.keywords, *rest, *kind)

    def check_constants(self) -> None:
        """Raise RuntimeError if one of them has changed since."""
        for t, version in self.constants:
            if t._version != version:
                raise RuntimeError(
                    f"Statistics of shape {list(t.shape)} that normalized have been modified by an inplace operation "
                    "since, and the backward pass needs them; give a copy, as in moments=running.moments()."
                )

    def record(self, backend: Formulas, x: Tensor) -> _Kind:
        """Run the formula, and what differentiates it, once under the eyes of a recording."""
        inputs = _examples(self.tensors)
        others = iter(inputs)
        table = Moments(*_together(self.entering, others))
        parameters = _together(self.parameters, others)
        constants = dict(zip(self.formula.keywords, _together(self.formula.keywords.values(), others), strict=True))
        formula = partial(self.formula.func, **constants)
        for p, needed in zip(parameters, self.needs, strict=True):
            if needed:
                p.requires_grad_()
        with Recording() as recording:
            graph = TinyGraph(backend, formula, x, table, parameters, None, measured=self.flows)
        step, lowering = graph.step, Lowering(inputs)
        lowering.take(recording.calls)
        statistics, count, planes = _split(step.statistics, table.count)
        made = [step.around, *step.tables, *statistics]
        forward = _checked(backend, x.dtype, lowering.program(inputs, made), inputs, made)
        grads = _examples(step.tables)
        lowering.enter(grads)
        with Recording() as recording:
            pulled = graph.pull(grads)
        lowering.take(recording.calls)
        backflow = () if pulled.slope is None or pulled.offset is None else (pulled.slope, pulled.offset)
        made = [*(g for g in pulled.parameters if g is not None), *backflow]
        inputs += grads
        backward = _checked(backend, x.dtype, lowering.program(inputs, made), inputs, made)
        recorded = Recorded(forward, backward, len(step.tables), RESPONSES.get(graph.result))
        return _Kind(
            prepared=backend.prepare(recorded),
            is_response=recorded.response is not None,
            statistics=tuple(_Form(t.shape, t.dtype) for t in statistics),
            count=count,
            planes=planes,
            gradients=tuple(None if g is None else _Form(g.shape, g.dtype) for g in pulled.parameters),
            flows=bool(backflow),
        )


def _unmeasured(x: Tensor, mask: Tensor | None) -> Moments:
    """Room for the moments of ``x``."""
    kind, shape = table_dtype(x), x.shape[:2]
    mean, var = torch.empty(2, *shape, dtype=kind, device=x.device).unbind()
    if mask is None:
        return Moments(mean, var, math.prod(x.shape[2:]))
    return Moments(mean, var, torch.empty(shape[0], 1, dtype=kind, device=x.device))


@cache
def _as_tensor(number: int) -> Tensor:
    with lasting():
        return torch.tensor(number, dtype=torch.float64, device="cpu")


def _split(statistics: Moments | None, size: Count) -> tuple[list[Tensor], int, int]:
    """The tensors of a formula's statistics; of their count a number, and how many planes' ``size`` comes to it."""
    if statistics is None:
        return [], 0, 0
    mean, var, count = statistics
    if not isinstance(count, Tensor):
        return [mean, var], count, 0
    if count.dim():
        return [mean, var, count], 0, 0
    return [mean, var], 0, round(float(count) / float(size))


def _checked(
    backend: Formulas, dtype: torch.dtype, program: Program, inputs: Sequence[Tensor], expected: Sequence[Tensor]
) -> Program:
    """The program, if it makes of the inputs what torch made."""
    found = [torch.empty(t.shape, dtype=t.dtype, device=t.device) for t in expected]
    backend.run(program, dtype, inputs, found)
    scale = max((t.detach().abs().max().item() for t in expected if t.numel()), default=0.0)
    for mine, right in zip(found, expected, strict=True):
        if not torch.allclose(mine, right.detach(), rtol=1e-3, atol=1e-5 * scale):
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
            if type(value) not in PLAIN or not value.is_cpu or value.is_neg() or value._is_zerotensor():
                raise NotRecordableError(f"a {type(value).__name__} on {value.device}")
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
