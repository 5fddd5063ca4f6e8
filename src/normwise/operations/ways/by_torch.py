"""torch's own operators, where they compute exactly what a formula defines.

They are used where no backend has a faster kernel, and they are what compilers and exporters know best. They are not
used with masks, unusual mixtures of dtypes and chosen backends.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from normwise.core.layout import check_memory, holds
from normwise.core.moments import Moments, statistics_dtype
from normwise.core.observed import is_traced
from normwise.core.sizes import last_sizes

from ..context import Context
from ..epilogue import finish, narrowed
from ..request import BATCH, NO_POOL, Request, centers
from ..saved import guarded, watch
from . import plain
from .torch_operators import Preparation, as_they_are, by_known, over_batch, over_groups, takes, widened


class _Operator:
    name = "torch's operator"
    remembers = False
    #: The measurement that speaks for this way.
    because = ""


class OverPools(_Operator):
    """Plain standardization by `torch.batch_norm`, `torch.group_norm` and their relatives, then `finish`."""

    def __init__(self, request: Request, groups: int, prepare: Preparation) -> None:
        self.groups, self.prepare = groups, prepare
        self.eps: Any = request.formula.keywords["eps"]  # type: ignore[attr-defined]

    def run(self, request: Request) -> tuple[Tensor, Moments | None]:
        x, known = request.x, request.known
        values, weight, bias = self.prepare(x, *request.parameters)
        kept = None
        if known is not None:
            mean, var = (t if t.dim() == 1 else t.reshape(-1) for t in known[:2])
            y = by_known(values, mean, var, weight, bias, self.eps)
        elif self.groups == BATCH:
            y, kept = over_batch(values, weight, bias, self.eps)
        else:
            narrow = values.dtype != x.dtype
            y = over_groups(values, self.groups, weight, bias, self.eps, to_be_narrowed=narrow)
        return narrowed(finish(y, request.activation, request.residual), x), kept

    def statistics(self, request: Request, kept: Moments | None) -> Moments:
        if request.known is not None:
            return plain.as_table(request.known, request.x)
        assert kept is not None
        return kept.detached()


class AlongRows(_Operator):
    """Rows and pixels by `F.layer_norm` and `F.rms_norm`, then `finish`."""

    def __init__(self, request: Request, prepare: Preparation) -> None:
        self.sums = request.view.over == "sums"
        alone = request.activation is None and (request.residual is None or self.sums)
        self.prepare = prepare if alone else widened
        self.eps: Any = request.formula.keywords["eps"]  # type: ignore[attr-defined]
        self.center = centers(request)

    def run(self, request: Request) -> tuple[Any, None]:
        x, residual, view = request.x, request.residual, request.view
        if self.sums:
            check_memory(x, residual)
            x, residual = x + residual, None  # type: ignore[operator]
        values, weight, bias = self.prepare(x, *request.parameters)
        pixels = view.over == "pixels"
        if pixels:
            values = values.movedim(1, -1)
        shape = last_sizes(values, max(view.dims, 1))
        check_memory(values, weight, bias)
        if self.center:
            y = F.layer_norm(values, shape, weight, bias, self.eps)
        else:
            y = F.rms_norm(values, shape, weight, self.eps)
        y = guarded(y, x if self.prepare is as_they_are else values, weight)  # of pixels the values are a view of x
        if pixels:
            y = plain.as_maps(y, x)
        y = narrowed(finish(y, request.activation, residual), x)
        return (y, x) if self.sums else y, None

    def statistics(self, request: Request, kept: None) -> Moments:
        raise NotImplementedError


class FewRows(_Operator):
    """`torch.layer_norm` of rows that need no conversion, in the least host time."""

    def __init__(self, request: Request, *, graph: bool) -> None:
        x, (weight, bias) = request.x, request.parameters
        self.eps: Any = request.formula.keywords["eps"]  # type: ignore[attr-defined]
        self.shape = x.shape[-request.view.dims :]
        self.sizes = [0 if t is None else t.numel() for t in (x, weight, bias)]
        self.graph = graph

    def run(self, request: Request) -> tuple[Tensor, None]:
        x, (weight, bias), sizes = request.x, request.parameters, self.sizes
        for t, size in zip((x, weight, bias), sizes, strict=True):
            if t is not None and not holds(t, size):
                check_memory(t)
        y = torch.layer_norm(x, self.shape, weight, bias, self.eps)
        if self.graph:
            watch(y, x, weight)
        return y, None

    def statistics(self, request: Request, kept: None) -> Moments:
        raise NotImplementedError


def bind_alone(request: Request, context: Context) -> OverPools | AlongRows | FewRows | str:
    """As `bind`, but only where the operator alone is the whole call, on unconverted tensors."""
    if request.activation is not None or request.residual is not None:
        return "a residual or an activation would be an operation of its own"
    way = bind(request, context)
    if isinstance(way, str):
        return way
    tensors = (request.x, *request.parameters)
    if way.prepare is not as_they_are or not all(p is None or p.is_contiguous() for p in tensors[1:]):
        return "tensors would be converted"
    rows = request.view.over == "rows" and centers(request)
    return FewRows(request, graph=context.graph) if rows and request.x.is_contiguous() else way


def bind(request: Request, context: Context) -> OverPools | AlongRows | str:
    """The way for a kind of call, or the reason why it does not serve."""
    x = request.x
    if request.mask is not None:
        return "there is a mask"
    if context.forced is not None:
        return f"the backend {context.forced.name!r} was chosen"
    prepare = takes(x, *request.parameters)
    added = request.residual if request.view.over == "sums" else None
    if prepare is None or (added is not None and added.dtype is not x.dtype):
        return "its operators do not take this mixture of dtypes"
    if request.view.over != "planes":
        if plain.of_each_set(request) is not None:
            return "sets of rows have an affine map each"
        weight, bias = request.parameters
        if weight is None and bias is not None and context.graph:
            return "its second derivative is wrong for a bias without a weight"
        if not centers(request) and torch.onnx.is_in_onnx_export() and is_traced():
            return "the exporter of torch.jit.trace's graphs to ONNX knows no rms_norm"
        return "its operator keeps the statistics for itself" if request.measured else AlongRows(request, prepare)
    groups = context.pool
    if groups is None:
        return NO_POOL
    if groups and context.transformed:
        return "torch's operators lack rules for the transform"
    # Without values torch's operators raise errors, and here give a gradient of NaN.
    if not (context.plain and request.known is not None) and x.numel() == 0:
        return "there are no values"
    if request.known is None and (context.plain if groups == BATCH else request.measured):
        return "its operator keeps the statistics for itself"
    if groups and statistics_dtype(x.dtype) is not x.dtype:
        # Also on GPUs: torch's operator keeps the statistics for its backward pass in the dtype of the values.
        prepare = widened
    return OverPools(request, groups, prepare)
