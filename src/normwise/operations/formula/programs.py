"""A formula and its derivative, run once on examples and recorded as two programs."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from normwise.backends import Formulas
from normwise.core.moments import Count, Moments
from normwise.core.program import Program
from normwise.core.program import RecordedFormula as Recorded
from normwise.core.responses import RESPONSES

from .formula_call import FormulaCall, together
from .lowering import Lowering, NotRecordableError
from .recording import Recording
from .tiny_graph import TinyGraph


class Form(NamedTuple):
    """The shape and dtype of a tensor that a program writes."""

    shape: torch.Size
    dtype: torch.dtype

    def new(self, x: Tensor) -> Tensor:
        return torch.empty(self.shape, dtype=self.dtype, device=x.device)


class Kind(NamedTuple):
    """Everything that calls of one kind have in common."""

    prepared: Any
    is_response: bool
    statistics: tuple[Form, ...]  # mean, variance, and the counts where they differ
    count: int  # where they do not differ: the count is this number
    planes: int  # plus this number times the size of a plane
    gradients: tuple[Form | None, ...]  # of the parameters
    flows: bool  # whether a gradient flows back through the moments


def record(call: FormulaCall, backend: Formulas, x: Tensor) -> Kind:
    """Run the formula and its derivative once, and record both."""
    inputs = _examples(call.tensors)
    others = iter(inputs)
    table = Moments(*together(call.entering, others))
    parameters = together(call.parameters, others)
    constants = dict(zip(call.formula.keywords, together(call.formula.keywords.values(), others), strict=True))
    formula = partial(call.formula.func, **constants)
    for p, needed in zip(parameters, call.needs, strict=True):
        if needed:
            p.requires_grad_()
    with Recording() as recording:
        graph = TinyGraph(backend, formula, x, table, parameters, None, measured=call.flows)
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
    return Kind(
        prepared=backend.prepare(recorded),
        is_response=recorded.response is not None,
        statistics=tuple(Form(t.shape, t.dtype) for t in statistics),
        count=count,
        planes=planes,
        gradients=tuple(None if g is None else Form(g.shape, g.dtype) for g in pulled.parameters),
        flows=bool(backflow),
    )


def _split(statistics: Moments | None, size: Count) -> tuple[list[Tensor], int, int]:
    """The tensors of a formula's statistics; their count as a number plus a number of planes of ``size`` values."""
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
    """The program, if its results on the inputs are those of torch."""
    found = [torch.empty(t.shape, dtype=t.dtype, device=t.device) for t in expected]
    backend.run(program, dtype, inputs, found)
    scale = max((t.detach().abs().max().item() for t in expected if t.numel()), default=0.0)
    for mine, right in zip(found, expected, strict=True):
        if not torch.allclose(mine, right.detach(), rtol=1e-3, atol=1e-5 * scale):
            raise NotRecordableError("its program gives other results than torch")
    return program


def _examples(like: Sequence[Tensor]) -> list[Tensor]:
    """Tensors in separate storages, with values from 0.5 to 1.5, all different, which are valid for any formula."""
    found = []
    for number, t in enumerate(like):
        values = torch.arange(t.numel(), dtype=torch.float64, device=t.device).add_(1 + 0.37 * number)
        found.append(values.mul_(0.6180339887).remainder_(1).add_(0.5).to(t.dtype).view(t.shape))
    return found
