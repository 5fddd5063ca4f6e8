"""Measure, formula, apply: every normalizer of activations, with one fused backward."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from normwise.backends import reference, select
from normwise.core.activations import activation_named
from normwise.core.arguments import as_mask, check_input, finite_padding
from normwise.core.formulas import Formula
from normwise.core.known import check_moments
from normwise.core.layout import check_memory
from normwise.core.moments import Moments
from normwise.core.tables import check_parameters

from .epilogue import additions_are_watched
from .graph_run import GraphRun, Run
from .higher import check_unchanged, direct_call
from .plain import differentiable_backward, normalize_plainly
from .recorded import recorded_run
from .transforms import needs_graph, plain_operations_wanted, without_autocast


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

    Raises TypeError for integer or complex input, complex parameters, and ``moments`` that are no `Moments`; ValueError
    for shapes that do not fit and tensors on another device.

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
    check_parameters(x, parameters)
    if moments is not None:
        check_moments("normalize", x, moments)
        check_memory(moments.mean, moments.var)
    act = activation_named(activation)
    mask = None if mask is None else as_mask(mask, x)
    x, residual = finite_padding(mask, x, residual)
    with without_autocast(x):
        if plain_operations_wanted():
            y, statistics = normalize_plainly(x, formula, parameters, act, residual, mask, moments)
            return y, statistics.detached()
        backend = reference if residual is not None and additions_are_watched() else select(x)
        wanted = needs_graph(x, residual, *parameters)
        run = recorded_run(backend, formula, x, residual, mask, moments, parameters, act, differentiable=wanted)
        if run is None:
            run = GraphRun(backend, formula, mask, moments, act, differentiable=wanted)
        y = _apply(run, x, residual, mask, *parameters) if wanted else run.forward(x, residual, parameters)
        return (y if run.behind is None else run.behind.function(y)), run.statistics


class _Normalize(torch.autograd.Function):
    """Moments → formula → last step, and a backward of one pass pair around the formula's own."""

    @staticmethod
    def forward(
        ctx: Any, run: Run, x: Tensor, residual: Tensor | None, mask: Tensor | None, *parameters: Tensor | None
    ) -> Tensor:
        ctx.run = run
        ctx.save_for_backward(x, residual, mask, *parameters)
        return run.forward(x, residual, parameters)

    @staticmethod
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
        run, (x, residual, mask, *parameters) = ctx.run, ctx.saved_tensors
        check_unchanged(x, grad_y)
        if torch.is_grad_enabled():
            # What stands behind the run is no part of this function.
            what = (run.formula, run.activation, mask, run.given)
            found = differentiable_backward(grad_y, x, residual, parameters, *what)
            return (None, *found[:2], None, *found[2:])
        values = ctx.needs_input_grad[1] or ctx.needs_input_grad[2]
        grad_x, grad_residual, gradients = run.backward(grad_y, x, residual, values=values)
        narrow = (None if g is None else g.to(p.dtype) for g, p in zip(gradients, parameters, strict=True))
        return (None, grad_x, grad_residual, None, *narrow)


_apply = direct_call(_Normalize)
