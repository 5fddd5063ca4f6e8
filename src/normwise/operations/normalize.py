"""Measure, formula, apply: every normalizer of activations, with one fused backward."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from normwise.backends import Backend, reference, select
from normwise.core.activations import Activation, activation_named
from normwise.core.arguments import as_mask, check_input, finite_padding
from normwise.core.formulas import Affine, Formula
from normwise.core.layout import in_layout_of
from normwise.core.moments import Count, Moments, statistics_dtype

from .epilogue import additions_are_watched
from .higher import differentiable_gradients
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
        formula: maps ``Moments`` and the parameters to ``Affine(center, scale, shift)``, each of which
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
            statistics = call.statistics
        else:
            affine = formula(table, *parameters)
            y = backend.apply(x, *_relative(affine, table.mean, x), residual, act)
            statistics = affine.statistics
        return y, table if statistics is None else statistics.detached()


def _measure(backend: Backend, x: Tensor, mask: Tensor | None) -> Moments:
    with torch.no_grad():
        return backend.moments(x.detach(), mask)


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
    affine = formula(table, *parameters)
    y = reference.apply(x, *_relative(affine, table.mean, x), residual, activation)
    return y, table if affine.statistics is None else affine.statistics


def _relative(affine: Affine, mean: Tensor, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Rewrite ``(x - center)·scale + shift`` around each plane's own mean, as the kernels want it.

    The difference of the two means is taken here, on the small table, so the kernels only ever see values
    of the size of the standard deviation. What the kernels center on is a mere constant of this rewriting:
    the result does not depend on it, so no gradient passes through it.
    """
    shape, kind = x.shape[:2], statistics_dtype(x.dtype)
    around = mean.detach().to(kind)
    shift = affine.shift + (around - affine.center) * affine.scale
    return around.expand(shape), affine.scale.to(kind).expand(shape), shift.to(kind).expand(shape)


class _Call:
    """What one forward pass hands to its backward besides tensors."""

    __slots__ = ("activation", "backend", "count", "formula", "graph", "measured", "statistics")

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
        self.graph: _TinyGraph | None = None
        self.statistics: Moments | None = None


class _TinyGraph:
    """The formula on detached ``[N, C]`` leaves: its vector-Jacobian product is the backward's middle step."""

    def __init__(self, call: _Call, x: Tensor, mean: Tensor, var: Tensor, parameters: tuple[Tensor | None, ...]):
        self.count = call.count
        with torch.enable_grad():
            self.mean = mean.detach().requires_grad_(call.measured and x.requires_grad)
            self.var = var.detach().requires_grad_(call.measured and x.requires_grad)
            self.parameters = [None if p is None else p.detach().requires_grad_(p.requires_grad) for p in parameters]
            affine = call.formula(Moments(self.mean, self.var, call.count), *self.parameters)
            call.statistics = affine.statistics
            self.around, self.scale, self.shift = _relative(affine, self.mean, x)
            self._refuse_captured_parameters()

    def coefficients(self) -> tuple[Tensor, Tensor, Tensor]:
        """What the kernels want: mean, scale and shift, without history."""
        return self.around, self.scale.detach(), self.shift.detach()

    def _leaves(self) -> list[Tensor]:
        candidates = (self.mean, self.var, *self.parameters)
        return [t for t in candidates if t is not None and t.requires_grad]

    def _refuse_captured_parameters(self) -> None:
        known = {id(leaf) for leaf in self._leaves()}
        nodes, seen = [t.grad_fn for t in (self.scale, self.shift) if t.grad_fn is not None], set()
        while nodes:
            node = nodes.pop()
            if node in seen:
                continue
            seen.add(node)
            variable = getattr(node, "variable", None)
            if variable is not None and id(variable) not in known:
                raise ValueError(
                    "The formula uses a tensor that requires a gradient but is not among its parameters "
                    f"(shape {tuple(variable.shape)}); pass it: normalize(x, formula, that_tensor)."
                )
            nodes.extend(following for following, _ in node.next_functions if following is not None)

    def vjp(self, grad_scale: Tensor, grad_shift: Tensor) -> dict[int, Tensor | None]:
        """The gradient of each leaf, by its id, for gradients of scale and shift."""
        leaves = self._leaves()
        pairs = [(o, g) for o, g in ((self.scale, grad_scale), (self.shift, grad_shift)) if o.requires_grad]
        if not leaves or not pairs:
            return {}
        # Retained, so that a second backward through the same forward pass finds it.
        grads = torch.autograd.grad(
            [o for o, _ in pairs], leaves, [g for _, g in pairs], retain_graph=True, allow_unused=True
        )
        return {id(leaf): grad for leaf, grad in zip(leaves, grads, strict=True)}

    def through_statistics(self, grads: dict[int, Tensor | None]) -> tuple[Tensor | None, Tensor | None]:
        """What each value of a plane adds to ``grad_x``: slope per (x - mean) through the variance, and offset.

        d var / d x = 2 (x - mean) / count and d mean / d x = 1 / count.
        """
        if not self.mean.requires_grad:
            return None, None
        count = self.count.clamp_min(1) if isinstance(self.count, Tensor) else max(self.count, 1)
        found = (grads.get(id(leaf)) for leaf in (self.mean, self.var))
        grad_mean, grad_var = (torch.zeros_like(self.mean) if g is None else g for g in found)
        kind, shape = self.scale.dtype, self.scale.shape
        slope = (2 * grad_var / count).to(kind).expand(shape)
        # The variance's slope is about the exact mean; the kernels center on the rounded one.
        offset = (grad_mean / count + 2 * grad_var / count * (self.around - self.mean.detach())).to(kind)
        return slope, offset.expand(shape)


class _Normalize(torch.autograd.Function):
    """moments → formula → apply, and a backward of one pass pair around the formula's tiny graph."""

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
        call.graph = graph = _TinyGraph(call, x, mean, var, parameters)
        ctx.call = call
        ctx.save_for_backward(x, residual, mask, mean, var, *parameters)
        return call.backend.apply(x, *graph.coefficients(), residual, call.activation)

    @staticmethod
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
        x, residual, mask, *_ = ctx.saved_tensors
        if torch.is_grad_enabled():
            return (None, *_differentiable_backward(ctx, grad_y))
        call, graph = ctx.call, ctx.call.graph
        with torch.no_grad():
            arguments = (in_layout_of(x, grad_y), x, *graph.coefficients(), residual, call.activation)
            sum_g, sum_gx = call.backend.backward_reduce(*arguments)
        grads = graph.vjp(sum_gx, sum_g)
        grad_x = grad_residual = None
        if ctx.needs_input_grad[1] or ctx.needs_input_grad[2]:
            with torch.no_grad():
                slope, offset = graph.through_statistics(grads)
                grad_x, grad_residual = call.backend.backward_apply(*arguments, slope, offset, mask)
        for_parameters = [None if p is None else grads.get(id(p)) for p in graph.parameters]
        return (None, grad_x, grad_residual, None, None, None, *for_parameters)


def _differentiable_backward(ctx: Any, grad_y: Tensor) -> list[Tensor | None]:
    """The gradients as functions that can be differentiated again, in plain operations."""
    x, residual, mask, mean, var, *parameters = ctx.saved_tensors
    call = ctx.call
    moments = None if call.measured else Moments(mean, var, call.count)

    def operation(x: Tensor, residual: Tensor | None, *parameters: Tensor | None) -> Tensor:
        return _in_plain_operations(x, call.formula, parameters, call.activation, residual, mask, moments)[0]

    found = differentiable_gradients(operation, (x, residual, *parameters), grad_y)
    return [found[0], found[1], None, None, None, *found[2:]]
