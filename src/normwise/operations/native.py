"""torch's own operators, where they compute just what a formula says.

They are the automatic choice for plain standardization until a backend has a faster kernel, and what the
compiler and the exporters know best. Masks, unusual mixtures of dtypes and chosen backends go elsewhere.
"""

from __future__ import annotations

import torch
from torch import Tensor

from normwise.backends import forced
from normwise.core.layout import in_layout_of
from normwise.core.moments import Moments, statistics_dtype


def takes(x: Tensor, mask: Tensor | None, *parameters: Tensor | None) -> bool:
    """Whether the operators serve: nothing else was chosen, and they are exact for these types."""
    return mask is None and forced() is None and exact_for(x, *parameters)


def exact_for(x: Tensor, *parameters: Tensor | None) -> bool:
    """Whether the operators accept ``x`` with these parameters and compute in fp32 (fp64)."""
    kind = x.dtype
    if all(p is None or p.dtype is kind for p in parameters) and (kind is torch.float32 or kind is torch.float64):
        return True
    given = [p for p in parameters if p is not None]
    if x.device.type == "cpu" and statistics_dtype(kind) != kind:
        # On CPU their backward rounds statistics and the terms of the gradient to the narrow type.
        if torch.is_grad_enabled() and any(t.requires_grad for t in (x, *given)):
            return False
        # fp32 parameters with narrow input: the mixture that CUDA's group norm refuses.
        return len({p.dtype for p in given} | {kind}) == 1 or all(p.dtype == torch.float32 for p in given)
    return all(p.dtype == kind for p in given)


def over_batch(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> tuple[Tensor, Moments]:
    """Standardize over the batch; also the pooled moments, ``[1, C]``."""
    kind = statistics_dtype(x.dtype)
    weight, bias = (None if p is None else p.to(kind) for p in (weight, bias))
    # With momentum 1 the operator leaves the statistics of this very batch in the buffers.
    mean, unbiased = torch.zeros(2, x.shape[1], dtype=kind, device=x.device).unbind()
    y = torch.batch_norm(x, weight, bias, mean, unbiased, True, 1.0, eps, torch.backends.cudnn.enabled)
    count = x.numel() // max(x.shape[1], 1)
    var = unbiased * (max(count - 1, 1) / max(count, 1))
    return y, Moments(mean.unsqueeze(0), var.unsqueeze(0), count)


def over_batch_moving(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, mean: Tensor, var: Tensor, momentum: float
) -> tuple[Tensor, Tensor, Tensor]:
    """`over_batch`, and where it moves the running statistics. Copies are moved: autograd keeps what it was given."""
    mean, var = mean.clone(), var.clone()
    return torch.batch_norm(x, weight, bias, mean, var, True, momentum, eps, False), mean, var


def over_groups(x: Tensor, groups: int, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
    """Standardize over each sample's groups of channels."""
    # On CPU group_norm computes E[x²] − E[x]² for channels_last, which cancels; for contiguous input it does not.
    dense = x.contiguous() if x.device.type == "cpu" else x
    if groups == x.shape[1] and statistics_dtype(x.dtype) == x.dtype and x.numel() > 0:
        # Planes alone: these operators' backward sums around the mean, group_norm's does not. For a batch of one,
        # instance_norm's misreads a channels_last gradient: every value of grad_x is wrong.
        if x.shape[0] == 1:
            y = torch.batch_norm(dense, weight, bias, None, None, True, 0.0, eps, torch.backends.cudnn.enabled)
        else:
            y = torch.instance_norm(dense, weight, bias, None, None, True, 0.0, eps, torch.backends.cudnn.enabled)
    else:
        y = torch.group_norm(dense, groups, weight, bias, eps)
    return y if dense is x else in_layout_of(x, y)


def by_known(x: Tensor, mean: Tensor, var: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
    """Standardize by given statistics, ``[C]`` each, which may change before a backward comes."""
    kind = statistics_dtype(x.dtype)
    if torch.is_grad_enabled() or mean.dtype != kind:
        mean, var = (t.detach().to(kind, copy=True) for t in (mean, var))
    weight, bias = (None if p is None else p.to(kind) for p in (weight, bias))
    return torch.batch_norm(x, weight, bias, mean, var, False, 0.0, eps, torch.backends.cudnn.enabled)
