"""The general path as differentiable, traceable PyTorch operations: nothing fused, nothing hidden."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from normwise.backends import reference
from normwise.core.activations import Activation
from normwise.core.formulas import Formula
from normwise.core.layout import check_memory
from normwise.core.moments import Moments

from .higher import differentiable_gradients
from .last_step import last_step
from .tiny_graph import wide


def normalize_plainly(
    x: Tensor,
    formula: Formula,
    parameters: Sequence[Tensor | None],
    activation: Activation | None,
    residual: Tensor | None,
    mask: Tensor | None,
    moments: Moments | None,
) -> tuple[Tensor, Moments]:
    """See `normalize_and_measure`; the statistics keep their history."""
    check_memory(x, *parameters)
    table = Moments.of(x, mask) if moments is None else moments.detached()
    step = last_step(reference, formula(table, *wide(parameters, x)), table.mean, x, activation)
    y = step.apply(x, residual)
    y = y if step.behind is None else step.behind.function(y)
    return y, table if step.statistics is None else step.statistics


def differentiable_backward(
    grad_y: Tensor,
    x: Tensor,
    residual: Tensor | None,
    parameters: Sequence[Tensor | None],
    formula: Formula,
    activation: Activation | None,
    mask: Tensor | None,
    moments: Moments | None,
) -> list[Tensor | None]:
    """The gradients of x, residual and parameters as functions that can be differentiated again."""

    def operation(x: Tensor, residual: Tensor | None, *parameters: Tensor | None) -> Tensor:
        return normalize_plainly(x, formula, parameters, activation, residual, mask, moments)[0]

    return differentiable_gradients(operation, (x, residual, *parameters), grad_y)
