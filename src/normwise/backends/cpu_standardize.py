"""The kernels of `cpu.py` that standardize over plain pools, in one call each way."""

from __future__ import annotations

import torch
from torch import Tensor

from normwise.core.activations import Activation
from normwise.core.moments import statistics_dtype

from .cpu_library import activation_number, call_packed, failure, packed, threads
from .cpu_tensors import WIDE, address, as_parameters, in_dtype_of, laid_out, lies_as, matched, new_table, room, span
from .huge_pages import empty_like
from .protocols import Known, StandardizationGradients


class Standardization:
    """See `protocols.Standardization`: everything that calls of one kind have in common is computed once."""

    def __init__(
        self,
        x: Tensor,
        groups: int,
        weight: Tensor | None,
        bias: Tensor | None,
        eps: float,
        residual: Tensor | None,
        activation: Activation | None,
        known: Known | None,
    ) -> None:
        self.groups, self.eps, self.activation = groups, eps, activation
        self.number, self.dtype, self.strides = activation_number(activation), x.dtype, x.stride()
        read, other, self.kept = as_parameters(x.dtype, weight, bias)
        tensors = [(x, laid_out(x)[0]), (weight, read), (bias, other)]
        if residual is not None:
            tensors.append((residual, matched(x, residual)))
        self.kept_known = WIDE
        if known is not None:
            mean, var, self.kept_known = as_parameters(x.dtype, *known)
            tensors += [(known[0], mean), (known[1], var)]
        #: Whether the kernels can read all tensors without a conversion.
        self.direct = all(given is read for given, read in tensors)
        *self.shape, _ = laid_out(x)[1]
        self.size, self.channels = x.numel(), x.shape[1]
        self.of_weight, self.of_bias = (0 if p is None else self.channels for p in (weight, bias))
        self.of_residual = 0 if residual is None else self.size
        self.table = new_table((2, x.shape[0], groups) if groups else (2, 1, self.channels))
        self.table_size, self.of_known = self.table.numel(), 0 if known is None else self.channels
        self.kernels = packed("nw_standardize", x.dtype), packed("nw_standardize_backward", x.dtype)

    def forward(
        self,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        residual: Tensor | None,
        known: Known | None,
        keep: bool,
    ) -> tuple[Tensor, Tensor | None]:
        """`standardize`."""
        if not self.direct:
            return standardize(x, self.groups, weight, bias, self.eps, residual, self.activation, known, keep)
        y, table = empty_like(x), torch.empty_like(self.table) if keep else None
        size, channels, mean, var = self.size, self.channels, 0, 0
        if known is not None:
            mean, var = (address(t, channels) for t in known)
        run, pack, count = self.kernels[0]
        arguments = (
            *self.shape,
            threads(),
            self.groups,
            self.eps,
            address(x, size),
            size,
            0 if residual is None else address(residual, size),
            self.of_residual,
            0 if weight is None else address(weight, channels),
            self.of_weight,
            0 if bias is None else address(bias, channels),
            self.of_bias,
            self.kept,
            mean,
            self.of_known,
            var,
            self.of_known,
            self.kept_known,
            self.number,
            y.data_ptr(),
            size,
            0 if table is None else table.data_ptr(),
            0 if table is None else self.table_size,
        )
        answer = run(pack(*arguments), count)
        if answer:
            raise failure("nw_standardize", answer, arguments)
        return y, table

    def backward(
        self,
        grad_y: Tensor,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        residual: Tensor | None,
        table: Tensor,
        *,
        known: bool,
        values: bool,
        same: bool,
    ) -> StandardizationGradients:
        """`standardize_backward`."""
        if not (values and self.direct and same and lies_as(grad_y, self.dtype, self.strides)):
            rest = (self.groups, weight, bias, self.eps, residual, self.activation, table)
            return standardize_backward(grad_y, x, *rest, known=known, values=values)
        size, channels, of_residual = self.size, self.channels, 0 if residual is None else self.size
        grad_x, grad_residual = empty_like(x), None if residual is None else empty_like(x)
        grad_weight = None if weight is None else torch.empty_like(weight)
        grad_bias = None if bias is None else torch.empty_like(bias)
        run, pack, count = self.kernels[1]
        arguments = (
            *self.shape,
            threads(),
            self.groups,
            known,
            self.eps,
            address(grad_y, size),
            size,
            address(x, size),
            size,
            0 if residual is None else address(residual, size),
            of_residual,
            0 if weight is None else address(weight, channels),
            self.of_weight,
            0 if bias is None else address(bias, channels),
            self.of_bias,
            self.kept,
            self.number,
            table.data_ptr(),
            self.table_size,
            grad_x.data_ptr(),
            size,
            0 if grad_residual is None else grad_residual.data_ptr(),
            of_residual,
            0 if grad_weight is None else grad_weight.data_ptr(),
            self.of_weight,
            0 if grad_bias is None else grad_bias.data_ptr(),
            self.of_bias,
        )
        answer = run(pack(*arguments), count)
        if answer:
            raise failure("nw_standardize_backward", answer, arguments)
        return grad_x, grad_residual, grad_weight, grad_bias


def standardization(
    x: Tensor,
    groups: int,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    residual: Tensor | None,
    activation: Activation | None,
    known: Known | None,
) -> Standardization:
    """See `Fused.standardization`."""
    return Standardization(x, groups, weight, bias, eps, residual, activation, known)


def standardize(
    x: Tensor,
    groups: int,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    residual: Tensor | None,
    activation: Activation | None,
    known: Known | None,
    keep: bool,
) -> tuple[Tensor, Tensor | None]:
    """`Standardization.forward` for tensors of any kind."""
    dtype = x.dtype
    if residual is not None and residual.dtype is not dtype:
        wide = statistics_dtype(dtype)
        y, table = standardize(x.to(wide), groups, weight, bias, eps, residual.to(wide), activation, known, keep)
        return y.to(dtype), table
    x, shape = laid_out(x)
    residual = matched(x, residual)
    y = empty_like(x)
    # Kept in variables, so that converted tensors live until the kernel has read them: an address keeps nothing alive.
    weight, bias, kept = as_parameters(dtype, weight, bias)
    mean, var, kept_known = (None, None, WIDE) if known is None else as_parameters(dtype, *known)
    table = None
    if keep:
        table = new_table((2, shape[1], groups) if groups else (2, 1, shape[2]))
    call_packed(
        "nw_standardize",
        dtype,
        *shape,
        groups,
        eps,
        *span(x),
        *span(residual),
        *span(weight),
        *span(bias),
        kept,
        *span(mean),
        *span(var),
        kept_known,
        0 if activation is None else activation_number(activation),
        *room(y),
        *room(table),
    )
    return y, table


def standardize_backward(
    grad_y: Tensor,
    x: Tensor,
    groups: int,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    residual: Tensor | None,
    activation: Activation | None,
    table: Tensor,
    *,
    known: bool,
    values: bool,
) -> StandardizationGradients:
    """`Standardization.backward` for tensors of any kind."""
    dtype = x.dtype
    if residual is not None and residual.dtype is not dtype:
        wide = statistics_dtype(dtype)
        rest = (groups, weight, bias, eps, residual.to(wide), activation, table)
        grads = standardize_backward(grad_y.to(wide), x.to(wide), *rest, known=known, values=values)
        of_x, of_residual = (
            None if g is None else g.to(k) for g, k in zip(grads, (dtype, residual.dtype), strict=False)
        )
        return of_x, of_residual, grads[2], grads[3]
    x, shape = laid_out(x)
    grad_y, residual = matched(x, grad_y), matched(x, residual)
    grad_x = empty_like(x) if values else None
    grad_residual = empty_like(x) if values and residual is not None else None
    read, other, kept = as_parameters(dtype, weight, bias)
    grad_weight = None if read is None else torch.empty_like(read)
    grad_bias = None if other is None else torch.empty_like(other)
    call_packed(
        "nw_standardize_backward",
        dtype,
        *shape,
        groups,
        known,
        eps,
        *span(grad_y),
        *span(x),
        *span(residual),
        *span(read),
        *span(other),
        kept,
        0 if activation is None else activation_number(activation),
        *span(table),
        *room(grad_x),
        *room(grad_residual),
        *room(grad_weight),
        *room(grad_bias),
    )
    return grad_x, grad_residual, in_dtype_of(weight, grad_weight), in_dtype_of(bias, grad_bias)
