"""torch's own operators, where they compute just what a formula says.

They are the way where no backend has a faster kernel, and what the compiler and the exporters know best. Masks, unusual
mixtures of dtypes and chosen backends go elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from normwise.core.history import without_history
from normwise.core.layout import check_memory, holds, in_layout_of
from normwise.core.moments import Moments, statistics_dtype, widen
from normwise.core.observed import is_recorded, is_traced
from normwise.core.precision import table_dtype
from normwise.core.sizes import last_sizes
from normwise.core.transforms import under_function_transform

from . import plain
from .context import Context, needs_graph
from .epilogue import finish, narrowed
from .request import BATCH, NO_POOL, Request
from .saved import guarded, watch

#: Below these numbers of values torch's layer_norm is faster than a kernel on the CPU, with a graph and without one:
#: the time of the host decides, and it has less of it. Measured by `benchmarks/ways.py` in fp32 on one thread of an AMD
#: EPYC (AVX2). Pools, and rows by their root mean square, are faster by the kernel at all sizes, but for groups of
#: channels of up to 2^14 values: there it is up to a tenth behind, and exact where the mean is large.
_ROWS_FASTER_BELOW = (1 << 20, 1 << 16)

#: ``x``, weight and bias for an operator.
Prepared = tuple[Tensor, Tensor | None, Tensor | None]
Preparation = Callable[..., Prepared]


class OverPools:
    """Plain standardization by `torch.batch_norm`, `torch.group_norm` and their relatives, and what follows it."""

    name = "torch's operator"
    remembers = False

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


class AlongRows:
    """Rows and pixels by `F.layer_norm` and `F.rms_norm`, and what follows."""

    name = "torch's operator"
    remembers = False

    def __init__(self, request: Request, prepare: Preparation) -> None:
        self.sums = request.view.over == "sums"
        alone = request.activation is None and (request.residual is None or self.sums)
        self.prepare = prepare if alone else widened
        self.eps: Any = request.formula.keywords["eps"]  # type: ignore[attr-defined]
        self.center = plain.centers(request)

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
        y = guarded(y, values, weight)
        if pixels:
            y = plain.as_maps(y, x)
        y = narrowed(finish(y, request.activation, residual), x)
        return (y, x) if self.sums else y, None

    def statistics(self, request: Request, kept: None) -> Moments:
        raise NotImplementedError


class FewRows:
    """`torch.layer_norm` of few values, which it takes as they are: in the least time of the host."""

    name = "torch's operator"
    remembers = False

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


def bind_few_rows(request: Request, context: Context) -> FewRows | str:
    """The same where it is faster than a kernel."""
    x = request.x
    if context.plain or request.view.over != "rows" or not plain.centers(request):
        return "it is for rows around their mean"
    if not x.is_cpu or not x.is_contiguous() or x.numel() >= _ROWS_FASTER_BELOW[0 if context.graph else 1]:
        return "it is for contiguous tensors on the CPU, of fewer values than a kernel needs to be faster"
    if request.activation is not None or request.residual is not None:
        return "a residual or an activation would be rounded twice, or widened"
    way = bind(request, context)
    if isinstance(way, str):
        return way
    if way.prepare is not as_they_are or not all(p is None or p.is_contiguous() for p in request.parameters):
        return "a kernel is faster than with conversions"
    return FewRows(request, graph=context.graph)


def bind(request: Request, context: Context) -> OverPools | AlongRows | str:
    """The way for a kind of call, or why it is none."""
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
        if not plain.centers(request) and torch.onnx.is_in_onnx_export() and is_traced():
            return "the exporter of torch.jit.trace's graphs to ONNX knows no rms_norm"
        return AlongRows(request, prepare)
    groups = context.pool
    if groups is None:
        return NO_POOL
    if groups and context.transformed:
        return "torch's operators lack rules for the transform"
    # Of no values torch's operators make errors, and here a gradient of NaN.
    if not (context.plain and request.known is not None) and x.numel() == 0:
        return "there are no values"
    if request.known is None and (context.plain if groups == BATCH else request.measured):
        return "its operator keeps the statistics for itself"
    if groups and statistics_dtype(x.dtype) is not x.dtype:
        # On every device: torch's operator keeps the statistics for its backward in the type of the values.
        prepare = widened
    return OverPools(request, groups, prepare)


def takes(x: Tensor, *parameters: Tensor | None) -> Preparation | None:
    """What must be done to ``x`` and its parameters for the operators to be exact; None where they do not serve."""
    kind, same, wide = x.dtype, True, True
    for p in parameters:
        if p is not None:
            same &= p.dtype is kind
            wide &= p.dtype is torch.float32
    if x.is_cpu and statistics_dtype(kind) is not kind:
        # On CPU they round the statistics, and the terms of the gradient, to the narrow type. The mixture with fp32
        # parameters is one that CUDA's group norm refuses.
        return widened if same or wide else None
    return as_they_are if same else None


def as_they_are(x: Tensor, *parameters: Tensor | None) -> Prepared:
    """The operators compute in fp32 (fp64)."""
    return x, *parameters  # type: ignore[return-value]


def widened(x: Tensor, *parameters: Tensor | None) -> Prepared:
    """The operators compute in fp32 if they are given fp32."""
    return widen(x), *(None if p is None else widen(p) for p in parameters)  # type: ignore[return-value]


def over_batch(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> tuple[Tensor, Moments]:
    """Standardize over the batch; also the pooled moments, ``[1, C]``."""
    check_memory(x, weight, bias)
    kind = statistics_dtype(x.dtype)
    weight, bias = (None if p is None else p.to(kind) for p in (weight, bias))
    count = x.numel() // x.shape[1]
    if x.is_cpu:
        y, mean, root = torch.native_batch_norm(x, weight, bias, None, None, True, 0.0, eps)
        mean, root = mean.detach().to(table_dtype(x)), root.detach().to(table_dtype(x))
        var = (root.pow(-2) - eps).clamp_min(0)
    else:
        # With momentum 1 the operator leaves the statistics of this very batch in the buffers.
        mean, unbiased = torch.zeros(2, x.shape[1], dtype=kind, device=x.device).unbind()
        y = torch.batch_norm(x, weight, bias, mean, unbiased, True, 1.0, eps, torch.backends.cudnn.enabled)
        var = unbiased * (max(count - 1, 1) / count)
    return guarded(y, x, weight), Moments(mean.unsqueeze(0), var.unsqueeze(0), count)


def over_groups(
    x: Tensor, groups: int, weight: Tensor | None, bias: Tensor | None, eps: float, *, to_be_narrowed: bool
) -> Tensor:
    """Standardize ``x``, fp32 (fp64), over each sample's groups of channels.

    Of values ``to_be_narrowed`` half the digits are kept.
    """
    check_memory(x, weight, bias)
    # On CPU group_norm computes E[x²] − E[x]² for channels_last, which cancels; for contiguous input it does not.
    dense = x.contiguous() if x.is_cpu else x
    if groups == x.shape[1] and not to_be_narrowed:
        # Planes alone: these operators' backward sums around the mean, group_norm's does not. For a batch of one,
        # instance_norm's misreads a channels_last gradient: every value of grad_x is wrong.
        if x.shape[0] == 1:
            y = torch.batch_norm(dense, weight, bias, None, None, True, 0.0, eps, torch.backends.cudnn.enabled)
        else:
            y = torch.instance_norm(dense, weight, bias, None, None, True, 0.0, eps, torch.backends.cudnn.enabled)
    else:
        y = torch.group_norm(dense, groups, weight, bias, eps)
    y = guarded(y, x, weight)
    return y if dense is x else in_layout_of(x, y)


def by_known(x: Tensor, mean: Tensor, var: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
    """Standardize by given statistics, ``[C]`` each, which may change before a backward comes."""
    check_memory(x, mean, var, weight, bias)
    kind = statistics_dtype(x.dtype)
    if mean.dtype is not kind or var.dtype is not kind:
        mean, var = _as(kind, mean), _as(kind, var)
    elif needs_graph(x, weight, bias) and not is_recorded():  # a graph for others takes them from where they are
        mean, var = mean.clone(), var.clone()
    if mean.requires_grad or var.requires_grad or under_function_transform():
        mean, var = without_history(mean), without_history(var)
    weight, bias = (None if p is None else _as(kind, p) for p in (weight, bias))
    y = torch.batch_norm(x, weight, bias, mean, var, False, 0.0, eps, torch.backends.cudnn.enabled)
    return guarded(y, x, weight)


def _as(kind: torch.dtype, t: Tensor) -> Tensor:
    """Without the step of a graph that a conversion to the same type is."""
    return t if t.dtype is kind else t.to(kind)
