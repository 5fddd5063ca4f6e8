"""The formula on detached ``[N, C]`` leaves: its vector-Jacobian product is the backward's middle step."""

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
    """Gradients of the formula's parameters, and what each value of a plane adds to ``grad_x``.

    That is slope·(x - mean) + offset, the slope through the variance; both are None where the statistics were given.
    """

    parameters: list[Tensor | None]
    slope: Tensor | None
    offset: Tensor | None


class TinyGraph:
    """One run of a formula, recorded by autograd; ``step`` has its tables."""

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
        # Hooks of a checkpoint or the like are for what is as large as x.
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
        """What the gradients of the step's tables, and of the statistics, are to whatever the formula was made of."""
        pairs = [*zip(self.step.tables, grad_tables, strict=True), *zip(self.stated, grad_statistics, strict=False)]
        grads = self._vjp([(t, g) for t, g in pairs if t.requires_grad])
        slope, offset = self._through_statistics(grads)
        return Pulled([None if p is None else grads.get(id(p)) for p in self.parameters], slope, offset)

    @property
    def stated(self) -> tuple[Tensor, Tensor]:
        """Mean and variance that the formula states, otherwise the table's."""
        statistics = self.step.statistics
        return (self.mean, self.var) if statistics is None else (statistics.mean, statistics.var)

    def _vjp(self, pairs: Sequence[tuple[Tensor, Tensor]]) -> dict[int, Tensor | None]:
        """The gradient of each leaf, by its id."""
        if not self.leaves or not pairs:
            return {}
        # Retained, so that a second backward through the same forward pass finds it.
        grads = torch.autograd.grad(
            [t for t, _ in pairs], self.leaves, [g for _, g in pairs], retain_graph=True, allow_unused=True
        )
        return {id(leaf): grad for leaf, grad in zip(self.leaves, grads, strict=True)}

    def _through_statistics(self, grads: dict[int, Tensor | None]) -> tuple[Tensor | None, Tensor | None]:
        """d var / d x = 2 (x - mean) / count and d mean / d x = 1 / count."""
        if not self.measured:
            return None, None
        return through_statistics(
            self.table, self.step.around, *(grads.get(id(leaf)) for leaf in (self.mean, self.var))
        )


def through_statistics(
    table: Moments, around: Tensor, to_mean: Tensor | None, to_var: Tensor | None
) -> tuple[Tensor, Tensor]:
    """What the gradients of a table's mean and variance add to that of x: slope·(x - around) + offset."""
    count, mean, rest = table.count, table.mean.detach(), table.rest
    share = 1 / (count.clamp_min(1) if isinstance(count, Tensor) else max(count, 1))
    slope = torch.zeros_like(mean) if to_var is None else to_var * (2 * share)
    # The variance's slope is about the exact mean; the kernels center on the rounded one.
    offset = slope * (around - mean if rest is None else around - mean - rest)
    if to_mean is not None:
        offset = offset + to_mean * share
    return slope.to(around.dtype), offset.to(around.dtype)


def _itself(t: Tensor) -> Tensor:
    return t


def wide(parameters: Sequence[Tensor | None], x: Tensor) -> list[Tensor | None]:
    """What a formula for ``x`` computes with, in the type of its statistics: a gradient may be a small difference."""
    kind = statistics_dtype(x.dtype)
    return [p if p is None or p.dtype is kind else _wide(p, kind) for p in parameters]


def _wide(p: Tensor, kind: torch.dtype) -> Tensor:
    if p.dtype is torch.float64 or not p.is_floating_point():
        return p
    check_memory(p)
    return p.to(kind)


def is_recordable(formula: Formula) -> bool:
    """Whether a formula depends on nothing but what it is given: a pure one, whose constants have no gradient."""
    constants: list[object] = []
    if isinstance(formula, partial):
        constants = [*formula.args, *formula.keywords.values()]
        formula = formula.func
    flat = [t for c in constants for t in (c if isinstance(c, tuple) else (c,))]
    return is_pure(formula) and not any(isinstance(t, Tensor) and t.requires_grad for t in flat)


def _hides_nothing(formula: Formula) -> bool:
    """Whether it is one of the package, whose tensors are all known."""
    function = formula.func if isinstance(formula, partial) else formula
    return is_recordable(formula) and str(getattr(function, "__module__", "")).startswith("normwise.")
