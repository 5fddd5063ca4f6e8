"""The formula on detached ``[N, C]`` leaves: its vector-Jacobian product is the middle step of the backward pass."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from normwise.backends import Backend
from normwise.core.activations import Activation
from normwise.core.bound import is_pure
from normwise.core.formulas import Formula
from normwise.core.layout import check_memory
from normwise.core.moments import Moments, statistics_dtype

from .output_step import output_step


class Pulled(NamedTuple):
    """The gradients of the formula's parameters, and the term that each value of a plane adds to ``grad_x``.

    It is slope·(x - mean) + offset, with the slope through the variance; both are None for given statistics.
    """

    parameters: list[Tensor | None]
    slope: Tensor | None
    offset: Tensor | None


class TinyGraph:
    """One run of a formula, recorded by autograd; ``step`` holds its tables."""

    def __init__(
        self,
        backend: Backend,
        formula: Formula,
        x: Tensor,
        table: Moments,
        parameters: Sequence[Tensor | None],
        activation: Activation | None,
        *,
        measured: bool,
    ) -> None:
        self.table = table
        self.measured = measured and x.requires_grad
        # Saved-tensor hooks, such as those of a checkpoint, are meant for tensors as large as x.
        with torch.enable_grad(), saved_tensors_hooks(_itself, _itself):
            self.mean = table.mean.detach().requires_grad_(self.measured)
            self.var = table.var.detach().requires_grad_(self.measured)
            self.parameters = [
                None if p is None else p.detach().requires_grad_(p.requires_grad) for p in wide(parameters, x)
            ]
            found = formula(table._replace(mean=self.mean, var=self.var), *self.parameters)
            self.result = type(found)
            self.step = output_step(backend, found, self.mean, x, activation)
        candidates = (self.mean, self.var, *self.parameters)
        self.leaves = [t for t in candidates if t is not None and t.requires_grad]
        if not _hides_nothing(formula):
            self._refuse_captured_parameters()

    def _refuse_captured_parameters(self) -> None:
        """ValueError where the formula's result depends on a tensor with a gradient that is not a parameter."""
        known = {id(leaf) for leaf in self.leaves}
        nodes, seen = [t.grad_fn for t in self.step.tables if t.grad_fn is not None], set()
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

    def pull(self, grad_tables: Sequence[Tensor], grad_statistics: Sequence[Tensor] = ()) -> Pulled:
        """Carry the gradients of the step's tables, and of the statistics, back to the formula's inputs."""
        pairs = [*zip(self.step.tables, grad_tables, strict=True), *zip(self.stated, grad_statistics, strict=False)]
        grads = self._vjp([(t, g) for t, g in pairs if t.requires_grad])
        slope, offset = self._through_statistics(grads)
        return Pulled([None if p is None else grads.get(id(p)) for p in self.parameters], slope, offset)

    @property
    def stated(self) -> tuple[Tensor, Tensor]:
        """Mean and variance in the formula's result, otherwise those of the table."""
        statistics = self.step.statistics
        return (self.mean, self.var) if statistics is None else (statistics.mean, statistics.var)

    def _vjp(self, pairs: Sequence[tuple[Tensor, Tensor]]) -> dict[int, Tensor | None]:
        """The gradient of each leaf, by its id."""
        if not self.leaves or not pairs:
            return {}
        # Retained, so that a second backward pass through the same forward pass is possible.
        grads = torch.autograd.grad(
            [t for t, _ in pairs], self.leaves, [g for _, g in pairs], retain_graph=True, allow_unused=True
        )
        return {id(leaf): grad for leaf, grad in zip(self.leaves, grads, strict=True)}

    def _through_statistics(self, grads: dict[int, Tensor | None]) -> tuple[Tensor | None, Tensor | None]:
        """Slope and offset by d var / d x = 2 (x - mean) / count and d mean / d x = 1 / count."""
        if not self.measured:
            return None, None
        return through_statistics(
            self.table, self.step.around, *(grads.get(id(leaf)) for leaf in (self.mean, self.var))
        )


def through_statistics(
    table: Moments, around: Tensor, to_mean: Tensor | None, to_var: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Slope and offset of the term slope·(x - around) + offset that the table's gradients add to that of x."""
    count, mean, rest = table.count, table.mean.detach(), table.rest
    share = 1 / (count.clamp_min(1) if isinstance(count, Tensor) else max(count, 1))
    slope = torch.zeros_like(mean) if to_var is None else to_var * (2 * share)
    # The variance's slope is about the exact mean; the kernels subtract the rounded one.
    offset = slope * (around - mean if rest is None else around - mean - rest)
    if to_mean is not None:
        offset = offset + to_mean * share
    return slope.to(around.dtype), offset.to(around.dtype)


def _itself(t: Tensor) -> Tensor:
    return t


def wide(parameters: Sequence[Tensor | None], x: Tensor) -> list[Tensor | None]:
    """The parameters in the dtype of the statistics of ``x``: a gradient may be a small difference."""
    dtype = statistics_dtype(x.dtype)
    return [p if p is None or p.dtype is dtype else _wide(p, dtype) for p in parameters]


def _wide(p: Tensor, dtype: torch.dtype) -> Tensor:
    if p.dtype is torch.float64 or not p.is_floating_point():
        return p
    check_memory(p)
    return p.to(dtype)


def is_recordable(formula: Formula) -> bool:
    """Whether a formula depends on its arguments alone: it is pure, and its constants have no gradient."""
    constants: list[object] = []
    if isinstance(formula, partial):
        constants = [*formula.args, *formula.keywords.values()]
        formula = formula.func
    flat = [t for c in constants for t in (c if isinstance(c, tuple) else (c,))]
    return is_pure(formula) and not any(isinstance(t, Tensor) and t.requires_grad for t in flat)


def _hides_nothing(formula: Formula) -> bool:
    """Whether the formula is one of this package, whose tensors are all known."""
    function = formula.func if isinstance(formula, partial) else formula
    return is_recordable(formula) and str(getattr(function, "__module__", "")).startswith("normwise.")
