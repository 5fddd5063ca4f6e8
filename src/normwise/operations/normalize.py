"""Measure, formula, apply: every normalizer of activations, with one fused backward."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from normwise.backends import Backend, reference, select
from normwise.core.activations import Activation, activation_named
from normwise.core.arguments import as_mask, check_input, finite_padding
from normwise.core.formulas import Formula
from normwise.core.layout import in_layout_of
from normwise.core.moments import Count, Moments

from .epilogue import additions_are_watched
from .higher import differentiable_gradients
from .last_step import LastStep, last_step
from .recorded import RecordedFormula, recorded_formula
from .tiny_graph import TinyGraph, wide
from .transforms import plain_operations_wanted, without_autocast


def normalize(
    x: Tensor,
    formula: Formula,
    *parameters: Tensor | None,
    activation: str | None = None,
    residual: Tensor | None = None,
    mask: Tensor | None = None,
    moments: Moments | None = None,
) -> Tensor:
    r"""Normalize ``x`` by a formula on the table of its per-(sample, channel) moments.

    .. math:: y = f\big((x - \text{center}) \cdot \text{scale} + \text{shift} + \text{residual}\big),
              \qquad (\text{center}, \text{scale}, \text{shift}) = \text{formula}(\text{moments}, *\text{parameters})

    The two passes over ``x`` run on fused kernels, forward and backward; the formula is a few lines of
    differentiable PyTorch on ``[N, C]`` tables and may be your own. It must be pure, since it runs again
    when a higher derivative is asked for, and whatever it learns must be passed in ``parameters``.

    Args:
        x: ``[N, C, *space]``, floating; the space may be empty (``[N, C]``).
        formula: maps ``Moments`` and the parameters to ``Affine(center, scale, shift)``, or to one of
            ``Thresholded``, ``Gated`` and ``LargerScale`` for what is not affine in ``x``; each coefficient
            broadcasts against ``[N, C]``. Arithmetic is in fp32 (fp64 for fp64 input).
        parameters: tensors that need gradients, or None.
        activation: a name from ``ACTIVATIONS``, applied last, or None.
        residual: a tensor of ``x``'s shape, added before the activation.
        mask: boolean, ``[N, *space]`` or ``[N, 1, *space]``; the statistics are those of the values where
            it is true. All values are normalized; NaN and inf outside the mask count as 0.
        moments: known statistics, for example running ones, that broadcast against ``[N, C]``; nothing is
            measured and no gradient flows into them.

    Returns ``y`` in ``x``'s shape, dtype and memory layout.

    Raises TypeError for integer or complex input and ValueError for shapes that do not fit.

    >>> from normwise import Affine
    >>> def root_mean_square(moments, weight):      # a new normalizer in three lines
    ...     power = moments.over_channels()
    ...     return Affine(0.0, weight * (power.var + power.mean**2 + 1e-6).rsqrt(), 0.0)
    >>> y = normalize(torch.randn(2, 3, 5, 5), root_mean_square, torch.ones(3))
    >>> torch.allclose(y.square().mean((1, 2, 3)), torch.ones(2), atol=1e-3)
    True
    """
    return normalize_and_measure(
        x, formula, *parameters, activation=activation, residual=residual, mask=mask, moments=moments
    )[0]


def normalize_and_measure(
    x: Tensor,
    formula: Formula,
    *parameters: Tensor | None,
    activation: str | None = None,
    residual: Tensor | None = None,
    mask: Tensor | None = None,
    moments: Moments | None = None,
) -> tuple[Tensor, Moments]:
    """`normalize`, and the statistics that the formula used, without a gradient.

    They are ``Affine.statistics`` where the formula states them, otherwise the measured (or given) table.

    >>> from normwise import Affine
    >>> x = torch.randn(4, 3, 5)
    >>> def batch(moments):
    ...     pooled = moments.over_batch()
    ...     return Affine(pooled.mean, pooled.var.rsqrt(), 0.0)
    >>> y, table = normalize_and_measure(x, batch)
    >>> torch.allclose(table.over_batch().mean.flatten(), x.double().mean((0, 2)))
    True
    """
    check_input(x, "normalize")
    act = activation_named(activation)
    mask = None if mask is None else as_mask(mask, x)
    x, residual = finite_padding(mask, x, residual)
    with without_autocast(x):
        if plain_operations_wanted():
            y, statistics = _in_plain_operations(x, formula, parameters, act, residual, mask, moments)
            return y, statistics.detached()
        backend = reference if residual is not None and additions_are_watched() else select(x)
        table = moments.detached() if moments is not None else _measure(backend, x, mask)
        if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (x, residual, *parameters)):
            call = _Call(backend, formula, act, table.count, measured=moments is None)
            y = _Normalize.apply(call, x, residual, mask, table.mean, table.var, *parameters)
            step = call.graph.step
        else:
            step = _step(backend, formula, x, table, parameters, act)
            y = step.apply(x, residual)
        y = y if step.behind is None else step.behind.function(y)
        return y, (table if step.statistics is None else step.statistics).detached()


def _measure(backend: Backend, x: Tensor, mask: Tensor | None) -> Moments:
    with torch.no_grad():
        return backend.moments(x.detach(), mask)


def _step(
    backend: Backend,
    formula: Formula,
    x: Tensor,
    table: Moments,
    parameters: tuple[Tensor | None, ...],
    activation: Activation | None,
) -> LastStep:
    """The last step where nothing will be differentiated."""
    options = {"measured": False, "differentiable": False}
    recorded = recorded_formula(backend, formula, x, table, parameters, activation, **options)
    if recorded is not None:
        return recorded.step
    return last_step(backend, formula(table, *wide(parameters)), table.mean, x, activation)


def _in_plain_operations(
    x: Tensor,
    formula: Formula,
    parameters: tuple[Tensor | None, ...],
    activation: Activation | None,
    residual: Tensor | None,
    mask: Tensor | None,
    moments: Moments | None,
) -> tuple[Tensor, Moments]:
    """The same result as differentiable, traceable PyTorch operations: nothing fused, nothing hidden."""
    table = Moments.of(x, mask) if moments is None else moments.detached()
    step = last_step(reference, formula(table, *wide(parameters)), table.mean, x, activation)
    y = step.apply(x, residual)
    y = y if step.behind is None else step.behind.function(y)
    return y, table if step.statistics is None else step.statistics


class _Call:
    """What one forward pass hands to its backward besides tensors."""

    __slots__ = ("activation", "backend", "count", "formula", "graph", "measured")

    def __init__(
        self,
        backend: Backend,
        formula: Formula,
        activation: Activation | None,
        count: Count,
        *,
        measured: bool,
    ) -> None:
        self.backend, self.formula, self.activation = backend, formula, activation
        self.count, self.measured = count, measured
        self.graph: RecordedFormula | TinyGraph


class _Normalize(torch.autograd.Function):
    """moments → formula → last step, and a backward of one pass pair around the formula's tiny graph."""

    @staticmethod
    def forward(
        ctx: Any,
        call: _Call,
        x: Tensor,
        residual: Tensor | None,
        mask: Tensor | None,
        mean: Tensor,
        var: Tensor,
        *parameters: Tensor | None,
    ) -> Tensor:
        table = Moments(mean, var, call.count)
        what = (call.backend, call.formula, x, table, parameters, call.activation)
        recorded = recorded_formula(*what, measured=call.measured, differentiable=True)
        call.graph = TinyGraph(*what, measured=call.measured) if recorded is None else recorded
        ctx.call = call
        ctx.save_for_backward(x, residual, mask, mean, var, *parameters)
        return call.graph.step.apply(x, residual)

    @staticmethod
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
        x, residual, mask, _, _, *parameters = ctx.saved_tensors
        if torch.is_grad_enabled():
            return (None, *_differentiable_backward(ctx, grad_y))
        graph = ctx.call.graph
        grad_y = in_layout_of(x, grad_y)
        pulled = graph.pull(graph.step.reduce(grad_y, x, residual))
        grad_x = grad_residual = None
        if ctx.needs_input_grad[1] or ctx.needs_input_grad[2]:
            backflow = (pulled.slope, pulled.offset, mask)
            grad_x, grad_residual = graph.step.differentiate(grad_y, x, residual, backflow)
        pairs = zip(pulled.parameters, parameters, strict=True)
        for_parameters = [None if g is None else g.to(p.dtype) for g, p in pairs]
        return (None, grad_x, grad_residual, None, None, None, *for_parameters)


def _differentiable_backward(ctx: Any, grad_y: Tensor) -> list[Tensor | None]:
    """The gradients as functions that can be differentiated again, in plain operations."""
    x, residual, mask, mean, var, *parameters = ctx.saved_tensors
    call = ctx.call
    moments = None if call.measured else Moments(mean, var, call.count)
    # What stands behind the step is no part of this function.
    activation = None if call.graph.step.behind is not None else call.activation

    def operation(x: Tensor, residual: Tensor | None, *parameters: Tensor | None) -> Tensor:
        return _in_plain_operations(x, call.formula, parameters, activation, residual, mask, moments)[0]

    found = differentiable_gradients(operation, (x, residual, *parameters), grad_y)
    return [found[0], found[1], None, None, None, *found[2:]]
