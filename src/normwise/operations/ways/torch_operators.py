"""torch's operators, called so that results are exact, statistics known, and the tensors that they read guarded."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from normwise.core.history import without_history
from normwise.core.layout import check_memory, in_layout_of
from normwise.core.moments import Moments, statistics_dtype, widen
from normwise.core.observed import is_recorded
from normwise.core.precision import table_dtype
from normwise.core.transforms import under_function_transform

from ..context import needs_graph
from ..saved import guarded

#: ``x``, weight and bias as the operator receives them.
Prepared = tuple[Tensor, Tensor | None, Tensor | None]
Preparation = Callable[..., Prepared]


def takes(x: Tensor, *parameters: Tensor | None) -> Preparation | None:
    """How to prepare ``x`` and its parameters for exact results; None where the operators do not serve them."""
    dtype, same, wide = x.dtype, True, True
    for p in parameters:
        if p is not None:
            same &= p.dtype is dtype
            wide &= p.dtype is torch.float32
    if x.is_cpu and statistics_dtype(dtype) is not dtype:
        # On CPU the operators round the statistics, and the terms of the gradient, to the narrow dtype. CUDA's group
        # norm refuses a mixture with fp32 parameters.
        return widened if same or wide else None
    return as_they_are if same else None


def as_they_are(x: Tensor, *parameters: Tensor | None) -> Prepared:
    """Unchanged, for operators that compute in fp32 (fp64) themselves."""
    return x, *parameters  # type: ignore[return-value]


def widened(x: Tensor, *parameters: Tensor | None) -> Prepared:
    """Widened, for operators that compute in fp32 only if their inputs are fp32."""
    return widen(x), *(None if p is None else widen(p) for p in parameters)  # type: ignore[return-value]


def over_batch(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> tuple[Tensor, Moments]:
    """Standardize over the batch; also the pooled moments, ``[1, C]``."""
    check_memory(x, weight, bias)
    dtype = statistics_dtype(x.dtype)
    weight, bias = (None if p is None else p.to(dtype) for p in (weight, bias))
    count = x.numel() // x.shape[1]
    if x.is_cpu:
        y, mean, root = torch.native_batch_norm(x, weight, bias, None, None, True, 0.0, eps)
        mean, root = mean.detach().to(table_dtype(x)), root.detach().to(table_dtype(x))
        var = (root.pow(-2) - eps).clamp_min(0)
    else:
        # With momentum 1 the operator writes the statistics of this very batch into the buffers.
        mean, unbiased = torch.zeros(2, x.shape[1], dtype=dtype, device=x.device).unbind()
        y = torch.batch_norm(x, weight, bias, mean, unbiased, True, 1.0, eps, torch.backends.cudnn.enabled)
        var = unbiased * (max(count - 1, 1) / count)
    return guarded(y, x, weight), Moments(mean.unsqueeze(0), var.unsqueeze(0), count)


def over_groups(
    x: Tensor, groups: int, weight: Tensor | None, bias: Tensor | None, eps: float, *, to_be_narrowed: bool
) -> Tensor:
    """Standardize ``x``, fp32 (fp64), over each sample's groups of channels.

    Results ``to_be_narrowed`` need only half of their digits.
    """
    check_memory(x, weight, bias)
    # On CPU group_norm computes E[x²] − E[x]² for channels_last, which cancels; for contiguous input it does not.
    dense = x.contiguous() if x.is_cpu else x
    if groups == x.shape[1] and not to_be_narrowed:
        # One channel a group: the backward pass of these operators sums around the mean, that of group_norm does not.
        # For a batch of one, instance_norm's misreads a channels_last gradient: every value of grad_x is wrong.
        if x.shape[0] == 1:
            y = torch.batch_norm(dense, weight, bias, None, None, True, 0.0, eps, torch.backends.cudnn.enabled)
        else:
            y = torch.instance_norm(dense, weight, bias, None, None, True, 0.0, eps, torch.backends.cudnn.enabled)
    else:
        y = torch.group_norm(dense, groups, weight, bias, eps)
    y = guarded(y, x, weight)
    return y if dense is x else in_layout_of(x, y)


def by_known(x: Tensor, mean: Tensor, var: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
    """Standardize by given statistics, ``[C]`` each, which may change before the backward pass."""
    check_memory(x, mean, var, weight, bias)
    dtype = statistics_dtype(x.dtype)
    if mean.dtype is not dtype or var.dtype is not dtype:
        mean, var = _as(dtype, mean), _as(dtype, var)
    elif needs_graph(x, weight, bias) and not is_recorded():  # a recorded graph reads them where they are
        mean, var = mean.clone(), var.clone()
    if mean.requires_grad or var.requires_grad or under_function_transform():
        mean, var = without_history(mean), without_history(var)
    weight, bias = (None if p is None else _as(dtype, p) for p in (weight, bias))
    y = torch.batch_norm(x, weight, bias, mean, var, False, 0.0, eps, torch.backends.cudnn.enabled)
    return guarded(y, x, weight)


def _as(dtype: torch.dtype, t: Tensor) -> Tensor:
    """Convert only if the dtype differs: a conversion to the same dtype is still a node of a graph."""
    return t if t.dtype is dtype else t.to(dtype)
