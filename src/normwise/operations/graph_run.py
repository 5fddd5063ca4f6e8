"""One pass of any formula over a tensor: the formula by autograd, the passes by a backend's kernels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from normwise.backends import Backend
from normwise.core.activations import Activation
from normwise.core.formulas import Formula
from normwise.core.layout import check_memory, in_layout_of
from normwise.core.moments import Moments

from .last_step import LastStep, last_step
from .tiny_graph import TinyGraph, wide


class Run(Protocol):
    """A pass over a tensor, ready to be run once and differentiated."""

    formula: Formula
    given: Moments | None
    activation: Activation | None
    #: What no kernel takes along, and the caller lets follow.
    behind: Activation | None
    #: What the formula states, otherwise the table; after `forward`, without a gradient.
    statistics: Moments

    def forward(self, x: Tensor, residual: Tensor | None, parameters: Sequence[Tensor | None]) -> Tensor: ...

    def backward(
        self, grad_y: Tensor, x: Tensor, residual: Tensor | None, *, values: bool
    ) -> tuple[Tensor | None, Tensor | None, list[Tensor | None]]:
        """The gradients of x and residual, where the ``values`` need them, and of the parameters, perhaps wider."""
        ...


class GraphRun:
    """See `Run`."""

    def __init__(
        self,
        backend: Backend,
        formula: Formula,
        mask: Tensor | None,
        given: Moments | None,
        activation: Activation | None,
        *,
        differentiable: bool,
    ) -> None:
        self.backend, self.formula, self.mask, self.given = backend, formula, mask, given
        self.activation, self.differentiable = activation, differentiable
        self.behind: Activation | None = None

    def forward(self, x: Tensor, residual: Tensor | None, parameters: Sequence[Tensor | None]) -> Tensor:
        check_memory(x, *parameters)
        with torch.no_grad():
            table = self.backend.moments(x.detach(), self.mask) if self.given is None else self.given.detached()
        self.step = self._step(x, table, parameters)
        if self.step.behind is not None:
            self.activation, self.behind = None, self.step.behind
        self.statistics = (table if self.step.statistics is None else self.step.statistics).detached()
        return self.step.apply(x, residual)

    def _step(self, x: Tensor, table: Moments, parameters: Sequence[Tensor | None]) -> LastStep:
        what = (self.backend, self.formula, x, table, parameters, self.activation)
        if self.differentiable:
            self.graph = TinyGraph(*what, measured=self.given is None)
            return self.graph.step
        return last_step(self.backend, self.formula(table, *wide(parameters, x)), table.mean, x, self.activation)

    def backward(
        self, grad_y: Tensor, x: Tensor, residual: Tensor | None, *, values: bool
    ) -> tuple[Tensor | None, Tensor | None, list[Tensor | None]]:
        grad_y = in_layout_of(x, grad_y)
        pulled = self.graph.pull(self.step.reduce(grad_y, x, residual))
        pair: tuple[Tensor | None, Tensor | None] = (None, None)
        if values:
            pair = self.step.differentiate(grad_y, x, residual, (pulled.slope, pulled.offset, self.mask))
        return pair[0], pair[1], pulled.parameters
