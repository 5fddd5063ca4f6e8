"""From the formula's tables to y and back: the step that is affine in x, or another response."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from normwise.backends import Backend, responses_of
from normwise.core.activations import Activation
from normwise.core.formulas import Affine, Coefficient
from normwise.core.known import check_moments
from normwise.core.layout import check_memory
from normwise.core.moments import statistics_dtype
from normwise.core.numbers import is_number
from normwise.core.responses import RESPONSES, Responding
from normwise.core.sizes import same
from normwise.core.tables import check_table

#: Slope and offset of the gradient that flows back through the statistics, and the mask of the values it reaches.
Backflow = tuple[Tensor | None, Tensor | None, Tensor | None]


class AffineStep:
    r"""``y = f((x - center)·scale + shift + residual)``.

    The step is rewritten around each plane's own mean, as the kernels expect it. The difference of the two means is
    computed on the small table, so that the kernels only see values of the size of the standard deviation. The means
    that the kernels subtract are constants of this rewriting: the result does not depend on them, and no gradient
    passes through them.
    """

    def __init__(
        self, backend: Backend, affine: Affine, mean: Tensor, x: Tensor, activation: Activation | None
    ) -> None:
        self.backend, self.statistics = backend, affine.statistics
        self.activation, self.behind = activation, None
        self.around = _table(mean.detach(), x)
        shift = affine.shift + (self.around - affine.center) * affine.scale
        #: The tables that have a gradient.
        self.tables = (_table(affine.scale, x), _table(shift, x))

    def apply(self, x: Tensor, residual: Tensor | None) -> Tensor:
        return self.backend.apply(x, self.around, *self.tables, residual, self.activation)

    def reduce(self, grad_y: Tensor, x: Tensor, residual: Tensor | None) -> Sequence[Tensor]:
        """The gradients of the tables."""
        sums = self.backend.backward_reduce(grad_y, x, self.around, *self.tables, residual, self.activation)
        return sums[1], sums[0]

    def differentiate(
        self, grad_y: Tensor, x: Tensor, residual: Tensor | None, backflow: Backflow
    ) -> tuple[Tensor, Tensor | None]:
        """The gradients of x and the residual."""
        return self.backend.backward_apply(grad_y, x, self.around, *self.tables, residual, self.activation, *backflow)


class ResponseStep:
    """``y = f(x; scale, shift + residual, ...)``; an activation is applied afterwards, as a separate operation."""

    def __init__(
        self, backend: Backend, found: Responding, mean: Tensor, x: Tensor, activation: Activation | None
    ) -> None:
        self.backend, self.response = responses_of(backend), RESPONSES[type(found)]
        self.statistics, self.behind = found.statistics, activation
        self.around = _table(mean.detach(), x)
        self.tables = tuple(_table(t, x) for t in found[:-1])

    def apply(self, x: Tensor, residual: Tensor | None) -> Tensor:
        return self.backend.respond(x, self.response, self.tables, residual)

    def reduce(self, grad_y: Tensor, x: Tensor, residual: Tensor | None) -> Sequence[Tensor]:
        """The gradients of the tables."""
        return self.backend.respond_reduce(grad_y, x, self.response, self.tables, residual)

    def differentiate(
        self, grad_y: Tensor, x: Tensor, residual: Tensor | None, backflow: Backflow
    ) -> tuple[Tensor, Tensor | None]:
        """The gradients of x and the residual."""
        return self.backend.respond_backward(grad_y, x, self.response, self.tables, residual, self.around, *backflow)


OutputStep = AffineStep | ResponseStep


def output_step(
    backend: Backend, found: Affine | Responding, mean: Tensor, x: Tensor, activation: Activation | None
) -> OutputStep:
    """The step for a formula's result, with tables ``[N, C]`` in the dtype of ``x``'s statistics."""
    if not isinstance(found, Affine) and type(found) not in RESPONSES:
        others = ", ".join(cls.__name__ for cls in RESPONSES)
        raise TypeError(
            f"A formula must return Affine(center, scale, shift) or one of {others}, received {type(found).__name__}."
        )
    _check(found, x)
    step_class: Any = AffineStep if isinstance(found, Affine) else ResponseStep
    return step_class(backend, found, mean, x, activation)


def _check(found: Affine | Responding, x: Tensor) -> None:
    """Check the result of a formula."""
    caller = type(found).__name__
    for name, t in zip(found._fields[:-1], found[:-1], strict=True):
        if isinstance(t, complex) or (isinstance(t, Tensor) and t.is_complex()):
            raise TypeError(f"{caller}: {name} must be real, received complex numbers; take their real part.")
        if isinstance(t, Tensor):
            check_table(caller, name, t, x)
            check_memory(t)
        elif not is_number(t):
            raise TypeError(f"{caller}: {name} must be a tensor or a number, received {type(t).__name__}.")
    if found.statistics is not None:
        check_moments(f"the statistics of {caller}", x, found.statistics)
        check_memory(found.statistics.mean, found.statistics.var)


def _table(t: Coefficient, x: Tensor) -> Tensor:
    dtype = statistics_dtype(x.dtype)
    table = t.to(dtype) if isinstance(t, Tensor) else torch.full((), t, dtype=dtype, device=x.device)
    # An expansion to the same shape would add a node to the graph, too.
    return table if same(table.shape, x.shape[:2]) else table.expand(x.shape[:2])
