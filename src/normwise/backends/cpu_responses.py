"""The kernels of `cpu.py` for the responses of `core.responses`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from normwise.core.moments import statistics_dtype
from normwise.core.responses import Response

from .cpu_library import RESPONSE_NUMBERS, call
from .cpu_tensors import Tables, dense, matched, of_bytes, room, shape_of, span
from .huge_pages import empty_like


def respond(x: Tensor, response: Response, tables: Sequence[Tensor], residual: Tensor | None) -> Tensor:
    """See `reference.respond`."""
    if residual is not None and residual.dtype != x.dtype:
        kind = statistics_dtype(x.dtype)
        return respond(x.to(kind), response, tables, residual.to(kind)).to(x.dtype)
    x, last = dense(x)
    residual = matched(x, residual)
    y = empty_like(x)
    call(
        "nw_respond",
        x.dtype,
        *shape_of(x, last),
        RESPONSE_NUMBERS[response.name],
        *span(x),
        *span(residual),
        *Tables(x.dtype, *tables).arguments,
        *room(y),
    )
    return y


def respond_reduce(
    grad_y: Tensor, x: Tensor, response: Response, tables: Sequence[Tensor], residual: Tensor | None
) -> tuple[Tensor, ...]:
    """See `reference.respond_reduce`."""
    kind = statistics_dtype(x.dtype)
    if residual is not None and residual.dtype != x.dtype:
        grad_y, x, residual = (t.to(kind) for t in (grad_y, x, residual))
    x, last = dense(x)
    grad_y, residual = matched(x, grad_y), matched(x, residual)
    sums = torch.empty(len(tables), *x.shape[:2], dtype=kind, device=x.device)
    call(
        "nw_respond_reduce",
        x.dtype,
        *shape_of(x, last),
        RESPONSE_NUMBERS[response.name],
        *span(grad_y),
        *span(x),
        *span(residual),
        *Tables(x.dtype, *tables).arguments,
        *room(sums),
    )
    return sums.unbind()


def respond_backward(
    grad_y: Tensor,
    x: Tensor,
    response: Response,
    tables: Sequence[Tensor],
    residual: Tensor | None,
    mean: Tensor,
    slope: Tensor | None,
    offset: Tensor | None,
    mask: Tensor | None,
) -> tuple[Tensor, Tensor | None]:
    """See `reference.respond_backward`."""
    if residual is not None and residual.dtype != x.dtype:
        kinds = x.dtype, residual.dtype
        grad_y, x, residual = (t.to(mean.dtype) for t in (grad_y, x, residual))
        grads = respond_backward(grad_y, x, response, tables, residual, mean, slope, offset, mask)
        return grads[0].to(kinds[0]), None if grads[1] is None else grads[1].to(kinds[1])
    x, last = dense(x)
    grad_y, residual = matched(x, grad_y), matched(x, residual)
    grad_x = empty_like(x)
    grad_residual = None if residual is None else empty_like(x)
    mask = of_bytes(mask)
    call(
        "nw_respond_backward",
        x.dtype,
        *shape_of(x, last),
        RESPONSE_NUMBERS[response.name],
        *span(grad_y),
        *span(x),
        *span(residual),
        *span(mask),
        *Tables(x.dtype, *tables, mean, slope, offset).arguments,
        *room(grad_x),
        *room(grad_residual),
    )
    return grad_x, grad_residual
