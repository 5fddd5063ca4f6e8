"""torch's own operators, where they compute just what a formula says.

They are the automatic choice for plain standardization until a backend has a faster kernel, and what the
compiler and the exporters know best. Masks, unusual mixtures of dtypes and chosen backends go elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple
from weakref import ref

import torch
from torch import Tensor

from normwise.backends import forced
from normwise.core.layout import PLAIN, in_layout_of
from normwise.core.moments import Moments, statistics_dtype, widen

from .transforms import needs_graph, plain_operations_wanted

#: ``x``, weight and bias for an operator.
Prepared = tuple[Tensor, Tensor | None, Tensor | None]
Preparation = Callable[..., Prepared]


def takes(x: Tensor, mask: Tensor | None, *parameters: Tensor | None) -> Preparation | None:
    """What must be done to ``x`` and its parameters for the operators to be exact; None where they do not serve.

    They serve where nothing else was chosen and the types go together.
    """
    if mask is not None or forced() is not None:
        return None
    kind, same, wide = x.dtype, True, True
    for p in parameters:
        if p is not None:
            same &= p.dtype is kind
            wide &= p.dtype is torch.float32
    if x.is_cpu and statistics_dtype(kind) is not kind:
        # fp32 parameters with narrow input: the mixture that CUDA's group norm refuses. And their backward rounds the
        # statistics, and the terms of the gradient, to the narrow type.
        if same or wide:
            return widened if needs_graph(x, *parameters) else as_they_are
        return None
    return as_they_are if same else None


def as_they_are(x: Tensor, *parameters: Tensor | None) -> Prepared:
    """The operators compute in fp32 (fp64)."""
    return x, *parameters  # type: ignore[return-value]


def widened(x: Tensor, *parameters: Tensor | None) -> Prepared:
    """The operators compute in fp32 if they are given fp32."""
    return widen(x), *(None if p is None else widen(p) for p in parameters)  # type: ignore[return-value]


def narrowed(y: Tensor, x: Tensor) -> Tensor:
    """The result in the type of what came."""
    return y if y.dtype == x.dtype else y.to(x.dtype)


def over_batch(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> tuple[Tensor, Moments]:
    """Standardize over the batch; also the pooled moments, ``[1, C]``."""
    kind = statistics_dtype(x.dtype)
    weight, bias = (None if p is None else p.to(kind) for p in (weight, bias))
    count = x.numel() // max(x.shape[1], 1)
    if x.is_cpu and count > 0:
        # The way of `over_batch_measured`, so that a checkpoint that is run again saves the same tensors.
        y, mean, root = over_batch_measured(x, weight, bias, eps)
        mean, root = mean.detach().double(), root.detach().double()
        return y, Moments(mean.unsqueeze(0), (root.pow(-2) - eps).clamp_min(0).unsqueeze(0), count)
    # With momentum 1 the operator leaves the statistics of this very batch in the buffers.
    mean, unbiased = torch.zeros(2, x.shape[1], dtype=kind, device=x.device).unbind()
    y = torch.batch_norm(x, weight, bias, mean, unbiased, True, 1.0, eps, torch.backends.cudnn.enabled)
    y = guarded(y, x, weight)
    var = unbiased * (max(count - 1, 1) / max(count, 1))
    return y, Moments(mean.unsqueeze(0), var.unsqueeze(0), count)


def over_batch_measured(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """`over_batch` with the mean and 1/√(σ² + ε) that the operator keeps for its backward, ``[C]``."""
    y, mean, root = torch.native_batch_norm(x, weight, bias, None, None, True, 0.0, eps)
    return guarded(y, x, weight), mean, root


def guarded(y: Tensor, *read: Tensor | None) -> Tensor:
    """``y``, whose backward raises RuntimeError if a tensor that it reads does not hold its values any more.

    torch's operators trust what they saved. ``weight.data = ...`` may have put a tensor of another size there, and a
    ``resize_`` of its storage released the memory, neither of which autograd notices.
    """
    if plain_operations_wanted() or not y.requires_grad:
        return y
    saved = [
        _Extent(ref(t), t.numel(), t.untyped_storage().nbytes()) for t in read if t is not None and type(t) in PLAIN
    ]
    y.grad_fn.register_prehook(partial(_check_extents, saved))  # type: ignore[union-attr]
    return y


class _Extent(NamedTuple):
    """How large a tensor was; it is not kept alive for that."""

    tensor: ref[Tensor]
    count: int
    bytes: int


def _check_extents(saved: list[_Extent], _: object) -> None:
    for extent in saved:
        t = extent.tensor()
        if t is not None and (t.numel() != extent.count or t.untyped_storage().nbytes() < extent.bytes):
            raise RuntimeError(
                f"A tensor of {extent.count} values that the backward pass needs has shape {list(t.shape)} and "
                f"{t.untyped_storage().nbytes()} bytes of memory now; change it in place, or after the backward pass."
            )


def over_groups(
    x: Tensor, groups: int, weight: Tensor | None, bias: Tensor | None, eps: float, *, to_be_narrowed: bool
) -> Tensor:
    """Standardize over each sample's groups of channels; of ``to_be_narrowed`` values half the digits are kept."""
    # On CPU group_norm computes E[x²] − E[x]² for channels_last, which cancels; for contiguous input it does not.
    dense = x.contiguous() if x.is_cpu else x
    if groups == x.shape[1] and statistics_dtype(x.dtype) is x.dtype and x.numel() > 0 and not to_be_narrowed:
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
    kind = statistics_dtype(x.dtype)
    if mean.dtype is not kind or var.dtype is not kind:
        mean, var = mean.to(kind), var.to(kind)
    elif needs_graph(x, weight, bias):
        mean, var = mean.clone(), var.clone()
    if mean.requires_grad or var.requires_grad:
        mean, var = mean.detach(), var.detach()
    if weight is not None and weight.dtype is not kind:
        weight = weight.to(kind)
    if bias is not None and bias.dtype is not kind:
        bias = bias.to(kind)
    y = torch.batch_norm(x, weight, bias, mean, var, False, 0.0, eps, torch.backends.cudnn.enabled)
    return guarded(y, x, weight)
