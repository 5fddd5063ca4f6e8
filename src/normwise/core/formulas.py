r"""The survey table of the field: one pure function for each normalizer.

A formula maps the table of moments and the layer's parameters to three small tensors that broadcast against
``[N, C]``::

    y = (x - center) · scale + shift

They are written in plain differentiable PyTorch; the passes over the big tensor are kernels. A normalizer
that always subtracts what it measured states the measured mean as ``center``: the difference from each
plane's own mean is then taken on the small table, and neither the output nor the gradient cancels when the
mean is large against the standard deviation.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from .moments import Moments
from .processes import ProcessGroup

Coefficient = Tensor | float


class Affine(NamedTuple):
    """``y = (x - center) · scale + shift``; each broadcasts against ``[N, C]``.

    ``statistics`` is whatever the formula pooled and the layer wants to remember; it takes no part in ``y``.
    """

    center: Coefficient
    scale: Tensor
    shift: Coefficient
    statistics: Moments | None = None


#: A normalizer of activations: ``(moments, *parameters) -> Affine``.
Formula = Callable[..., Affine]


def standardized(pooled: Moments, weight: Tensor | None, bias: Tensor | None, eps: float) -> Affine:
    r"""Zero mean and unit variance over the pool: :math:`\gamma (x-\mu)/\sqrt{\sigma^2+\epsilon} + \beta`."""
    scale = torch.rsqrt(pooled.var + eps)
    if weight is not None:
        scale = weight * scale
    return Affine(pooled.mean, scale, 0.0 if bias is None else bias, pooled)


def batch_norm(
    moments: Moments,
    weight: Tensor | None,
    bias: Tensor | None,
    *,
    eps: float,
    processes: ProcessGroup | None = None,
) -> Affine:
    """Pool over N and space, and over the processes of a group (Ioffe and Szegedy 2015, arXiv:1502.03167)."""
    return standardized(moments.over_batch(processes), weight, bias, eps)


def ghost_batch_norm(
    moments: Moments,
    weight: Tensor | None,
    bias: Tensor | None,
    *,
    ghost_size: int,
    eps: float,
    processes: ProcessGroup | None = None,
) -> Affine:
    """Pool over chunks of N and space (Hoffer et al. 2017, arXiv:1705.08741); remembered: the whole batch."""
    affine = standardized(moments.over_chunks(ghost_size), weight, bias, eps)
    return affine._replace(statistics=moments.over_batch(processes))


def layer_norm(moments: Moments, weight: Tensor | None, bias: Tensor | None, *, eps: float) -> Affine:
    """Pool over C and space, one affine per channel (Ba et al. 2016, arXiv:1607.06450)."""
    return standardized(moments.over_channels(), weight, bias, eps)


def instance_norm(moments: Moments, weight: Tensor | None, bias: Tensor | None, *, eps: float) -> Affine:
    """Pool over space only (Ulyanov et al. 2016, arXiv:1607.08022)."""
    return standardized(moments, weight, bias, eps)


def group_norm(moments: Moments, weight: Tensor | None, bias: Tensor | None, *, groups: int, eps: float) -> Affine:
    """Pool over C/G neighbouring channels and space (Wu and He 2018, arXiv:1803.08494)."""
    return standardized(moments.over_groups(groups), weight, bias, eps)
