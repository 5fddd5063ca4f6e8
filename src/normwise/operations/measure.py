"""Moments alone, by one pass over the tensor forward and one backward."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from normwise.backends import Backend, select
from normwise.core.arguments import as_mask, check_input
from normwise.core.layout import check_memory
from normwise.core.moments import Moments, statistics_dtype

from .autograd import Gradients, Parameters, Pass, PassCall, over_tensor
from .context import needs_graph, plain_operations_wanted, without_autocast
from .formula.tiny_graph import through_statistics


def measure(x: Tensor, mask: Tensor | None = None) -> Moments:
    """`Moments.of` ``x[N, C, *space]`` over the values where ``mask`` is true, differentiable.

    Raises TypeError for integer or complex input and ValueError for shapes that do not fit.

    >>> import torch
    >>> x = torch.randn(2, 3, 4)
    >>> torch.allclose(measure(x).mean, x.mean(2).double(), atol=1e-6)
    True
    """
    check_input(x, "measure")
    mask = None if mask is None else as_mask(mask, x)
    check_memory(x, mask)
    with without_autocast(x):
        if plain_operations_wanted():
            return Moments.of(x, mask)
        measuring = _Measuring(select(x))
        call = PassCall(measuring, None)
        measured = over_tensor(call, x, None, mask) if needs_graph(x) else measuring.forward(call, x, None, mask, ())
        return call.kept._replace(mean=measured[0], var=measured[1])


class _Measuring(Pass):
    """A pass whose results are the mean and the variance of each plane."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend

    def forward(
        self, call: PassCall, x: Tensor, residual: Tensor | None, mask: Tensor | None, p: Parameters
    ) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            table = call.kept = self.backend.moments(x.detach(), mask)
        return table.mean, table.var

    def backward(
        self,
        call: PassCall,
        grad_y: tuple[Tensor, Tensor],
        x: Tensor,
        residual: Tensor | None,
        mask: Tensor | None,
        p: Parameters,
        needs: Sequence[bool],
    ) -> Gradients:
        check_memory(x, mask)
        table = call.kept
        around = table.mean.to(statistics_dtype(x.dtype))
        slope, offset = through_statistics(table, around, *grad_y)
        grad_x = self.backend.apply(x, around, slope, offset, None, None)
        return (grad_x if mask is None else torch.where(mask, grad_x, 0), None)

    def plainly(
        self, call: PassCall, mask: Tensor | None, x: Tensor, residual: Tensor | None, *p: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        table = Moments.of(x, mask)
        return table.mean, table.var
