"""The kernels of `cpu_rows.py` for calls of one kind, whose tensors need no conversion."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from normwise.core.activations import Activation

from . import cpu_rows
from .cpu_library import activation_number, failure, packed, threads
from .cpu_tensors import address, as_parameters, lies_as, matched, new_table, span
from .huge_pages import empty_like
from .protocols import StandardizationGradients


class DenseRows:
    """See `protocols.DenseRows`: everything that calls of one kind have in common is computed once.

    The arguments are written out, as in `cpu_standardize.py`: a helper for absent tensors cost 2 of 76 µs, both passes.
    """

    def __init__(
        self, x: Tensor, width: int, eps: float, center: bool, activation: Activation | None, kept: int
    ) -> None:
        self.eps, self.center, self.activation, self.kept = eps, center, activation, kept
        self.number, self.size, self.strides, self.dtype = activation_number(activation), x.numel(), x.stride(), x.dtype
        #: Whether a row is the channels at a pixel, which are neighbours in memory.
        self.turned = width == 0 and not (x.dim() > 2 and x.is_contiguous())
        self.columns = width == 0 and not self.turned
        if self.columns:
            samples, self.width = x.shape[:2]
            self.sizes: tuple[int, ...] = (samples, self.width, self.size // (samples * self.width))
            self.beside, table = ((), ()), (samples, self.sizes[2])
        else:
            self.width = width or x.shape[1]
            self.sizes = (self.size // self.width, self.width)
            self.beside, table = ((0, 0, 0, 0), (0, 0)), self.sizes[:1]
        self.of_table = (2, *table)
        self.table_size = math.prod(self.of_table)
        names = ("nw_columns", "nw_columns_backward") if self.columns else ("nw_rows", "nw_rows_backward")
        self.names, self.kernels = names, tuple(packed(name, x.dtype) for name in names)

    def forward(
        self, x: Tensor, weight: Tensor | None, bias: Tensor | None, residual: Tensor | None, keep: bool
    ) -> tuple[Tensor, Tensor | None]:
        """`Rows.rows`, or `Rows.columns`."""
        y, table = empty_like(x), new_table(self.of_table) if keep else None
        size, width = self.size, self.width
        run, pack, count = self.kernels[0]
        arguments = (
            *self.sizes,
            threads(),
            self.center,
            self.eps,
            address(x, size),
            size,
            *self.beside[0],
            0 if residual is None else address(residual, size),
            0 if residual is None else size,
            0 if weight is None else address(weight, width),
            0 if weight is None else width,
            0 if bias is None else address(bias, width),
            0 if bias is None else width,
            self.kept,
            self.number,
            y.data_ptr(),
            size,
            0 if table is None else table.data_ptr(),
            0 if table is None else self.table_size,
        )
        answer = run(pack(*arguments), count)
        if answer:
            raise failure(self.names[0], answer, arguments)
        return y, table

    def backward(
        self,
        grad_y: Tensor,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        residual: Tensor | None,
        table: Tensor,
        needs: Sequence[bool],
        same: bool,
    ) -> StandardizationGradients:
        """`Rows.rows_backward`, or `Rows.columns_backward`."""
        if not same:
            return self._backward_of_others(grad_y, x, weight, bias, residual, table, needs)
        if not lies_as(grad_y, self.dtype, self.strides):
            grad_y = matched(x, grad_y)
            span(grad_y)
        size, width, activated = self.size, self.width, self.number != 0
        grad_x = empty_like(x) if needs[0] else None
        # Without an activation the gradient of the residual is that of y.
        grad_residual = None if not needs[1] else empty_like(x) if activated else grad_y
        grad_weight = torch.empty_like(weight) if needs[2] and weight is not None else None
        grad_bias = torch.empty_like(bias) if needs[3] and bias is not None else None
        to_residual = grad_residual if activated else None
        run, pack, count = self.kernels[1]
        arguments = (
            *self.sizes,
            threads(),
            self.center,
            address(grad_y, size),
            size,
            address(x, size),
            size,
            *self.beside[1],
            0 if residual is None else address(residual, size),
            0 if residual is None else size,
            0 if weight is None else address(weight, width),
            0 if weight is None else width,
            0 if bias is None else address(bias, width),
            0 if bias is None else width,
            self.kept,
            self.number,
            table.data_ptr(),
            self.table_size,
            0,
            0,
            0 if grad_x is None else grad_x.data_ptr(),
            0 if grad_x is None else size,
            0 if to_residual is None else to_residual.data_ptr(),
            0 if to_residual is None else size,
            0 if grad_weight is None else grad_weight.data_ptr(),
            0 if grad_weight is None else width,
            0 if grad_bias is None else grad_bias.data_ptr(),
            0 if grad_bias is None else width,
        )
        answer = run(pack(*arguments), count)
        if answer:
            raise failure(self.names[1], answer, arguments)
        return grad_x, grad_residual, grad_weight, grad_bias

    def _backward_of_others(
        self,
        grad_y: Tensor,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        residual: Tensor | None,
        table: Tensor,
        needs: Sequence[bool],
    ) -> StandardizationGradients:
        """The gradients where a saved tensor has other strides or another class than in the forward pass."""
        given, tables = (grad_y, x, residual), (table,)
        if self.turned:
            given = tuple(None if t is None else t.movedim(1, -1) for t in given)  # type: ignore[assignment]
        grad_y, x, residual = (None if t is None else t.contiguous() for t in given)  # type: ignore[assignment]
        of = needs[0], needs[1], needs[2], needs[3]
        rest = (weight, bias, tables, self.center, of, residual, self.activation)
        if self.columns:
            return cpu_rows.columns_backward(grad_y, x, *rest)
        of_x, of_residual, *others = cpu_rows.rows_backward(grad_y, x, self.width, *rest)
        if self.turned:
            of_x, of_residual = (None if t is None else t.movedim(-1, 1) for t in (of_x, of_residual))
        return of_x, of_residual, *others  # type: ignore[return-value]


def dense_rows(
    x: Tensor,
    width: int,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    center: bool,
    residual: Tensor | None,
    activation: Activation | None,
) -> DenseRows | None:
    """See `BoundRows.dense_rows`."""
    laid = x.is_contiguous() or (width == 0 and x.movedim(1, -1).is_contiguous())
    read, other, kept = as_parameters(x.dtype, weight, bias)
    as_they_are = laid and not x.is_neg() and not x._is_zerotensor() and read is weight and other is bias
    if not as_they_are or not (residual is None or lies_as(residual, x.dtype, x.stride())):
        return None
    return DenseRows(x, width, eps, center, activation, kept)
