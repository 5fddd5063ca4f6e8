r"""The survey table of the field: one pure function for each normalizer.

A formula maps the table of moments and the layer's parameters to three small tensors that broadcast against
``[N, C]``::

    y = (x - center) · scale + shift

or, where y is not affine in x, of one of the functions in `core.responses`.
They are written in plain differentiable PyTorch; the passes over the big tensor are kernels. A normalizer
that always subtracts what it measured states the measured mean as ``center``: the difference from each
plane's own mean is then taken on the small table, and neither the output nor the gradient cancels when the
mean is large against the standard deviation.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import NamedTuple

import torch
from torch import Tensor

from .moments import Moments, PairedMoments
from .processes import ProcessGroup
from .responses import Coefficient, Gated, LargerScale, Responding


class Affine(NamedTuple):
    """``y = (x - center) · scale + shift``; each broadcasts against ``[N, C]``.

    ``statistics`` are the pooled moments that the layer remembers, if any; they take no part in ``y``.
    """

    center: Coefficient
    scale: Tensor
    shift: Coefficient
    statistics: Moments | None = None


#: A normalizer of activations: ``(moments, *parameters) -> Affine``, or one of the responses.
Formula = Callable[..., Affine | Responding]


def standardized(pooled: Moments, weight: Tensor | None, bias: Tensor | None, eps: float) -> Affine:
    r"""Zero mean and unit variance over the pool: :math:`\gamma (x-\mu)/\sqrt{\sigma^2+\epsilon} + \beta`."""
    scale = torch.rsqrt(pooled.var + eps)
    if weight is not None:
        scale = weight * scale
    return Affine(pooled.mean, scale, _with_rest(pooled, scale, 0.0 if bias is None else bias), pooled)


def one_plus(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """γ of a zero-centered weight, ``1 + weight``, in ``dtype`` or a wider one.

    In a narrow dtype the sum is rounded to the spacing of numbers near 1: weights of 0.004 and 0.008 give the same γ
    in bf16.
    """
    return 1 + weight.to(torch.promote_types(weight.dtype, dtype))


def _with_rest(center: Moments, scale: Tensor, shift: Coefficient) -> Coefficient:
    """The shift that makes up for the rounding of the means in ``(x - mean) · scale + shift`` (`PairedMoments`)."""
    return shift if center.rest is None else shift - center.rest * scale


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
    """Pool over chunks of N and space (Hoffer et al. 2017, arXiv:1705.08741); the whole batch is remembered."""
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


class RenormTarget(NamedTuple):
    """The running statistics that Batch Renormalization corrects a batch towards, ``[1, C]``, and the bounds."""

    mean: Tensor
    var: Tensor
    r_max: Tensor | float
    d_max: Tensor | float


def batch_renorm(
    moments: Moments,
    weight: Tensor | None,
    bias: Tensor | None,
    *,
    target: RenormTarget,
    eps: float,
    processes: ProcessGroup | None = None,
) -> Affine:
    r"""Batch normalization, then :math:`\hat x r + d` towards the running statistics (Ioffe 2017, arXiv:1702.03275).

    r and d are clipped to [1/r_max, r_max] and [-d_max, d_max]; no gradient flows through them.
    """
    pooled = moments.over_batch(processes)
    batch = pooled.detached()
    scale = torch.rsqrt(target.var + eps)
    # The bounds are two numbers or two tensors; `clamp` has a separate overload for each.
    r = (torch.sqrt(batch.var + eps) * scale).clamp(1 / target.r_max, target.r_max)  # type: ignore[call-overload]
    away = batch.away_from(Moments(target.mean, target.var, 1))
    d = (away * scale).clamp(-target.d_max, target.d_max)  # type: ignore[call-overload]
    affine = standardized(pooled, r if weight is None else weight * r, bias, eps)
    return affine._replace(shift=affine.shift + (d if weight is None else weight * d))


def switchable_norm(
    moments: Moments,
    weight: Tensor | None,
    bias: Tensor | None,
    mean_weight: Tensor,
    var_weight: Tensor,
    *,
    branches: tuple[str, ...],
    eps: float,
    known: Moments | None = None,
    processes: ProcessGroup | None = None,
) -> Affine:
    """Learned mixtures of the means and variances of ``branches`` (Luo et al. 2018, arXiv:1806.10779).

    ``known`` replaces the batch's statistics.
    """
    batch = None
    tables: list[Moments] = []
    for branch in branches:
        if branch == "batch":
            batch = moments.over_batch(processes) if known is None else known
            tables.append(batch)
        else:
            tables.append(moments if branch == "instance" else moments.over_channels())
    var = _mixed(var_weight, [table.var for table in tables])
    mixed = _mixed_means(mean_weight, tables)._replace(var=var)
    return standardized(mixed, weight, bias, eps)._replace(statistics=batch)


def mixture(logits: Tensor) -> Tensor:
    """Softmax; an infinite logit gives its limit, a weight of exactly 0 or 1."""
    return logits.clamp(-1e4, 1e4).softmax(0)


def _mixed_means(logits: Tensor, tables: list[Moments]) -> Moments:
    """The first table, its means replaced by the mixture of all tables' means."""
    first = tables[0]
    if first.rest is None:
        return first._replace(mean=_mixed(logits, [table.mean for table in tables]))
    # Differences from the first table are mixed: the weights add up to 1, and rounding is small against a difference.
    away = _mixed(logits, [table.away_from(first) for table in tables])
    mean = first.mean + away
    rest = (away - (mean - first.mean)).detach() + first.rest
    return PairedMoments(mean, first.var, first.count, rest)


def _mixed(logits: Tensor, parts: list[Tensor]) -> Tensor:
    shares = mixture(logits.to(parts[0].dtype))
    return reduce(torch.add, (share * part for share, part in zip(shares, parts, strict=True)))


def batch_instance_norm(
    moments: Moments,
    weight: Tensor | None,
    bias: Tensor | None,
    gate: Tensor,
    *,
    eps: float,
    known: Moments | None = None,
    processes: ProcessGroup | None = None,
) -> Affine:
    r""":math:`\gamma(\rho \hat x_B + (1-\rho) \hat x_I) + \beta`, ρ the gate (Nam and Kim 2018, arXiv:1805.07925).

    ``known`` replaces the batch's statistics.
    """
    batch = moments.over_batch(processes) if known is None else known
    by_batch = gate * torch.rsqrt(batch.var + eps)
    by_instance = (1 - gate) * torch.rsqrt(moments.var + eps)
    # Around the plane's own mean both branches are small; around 0 they would cancel.
    scale, shift = by_batch + by_instance, moments.away_from(batch) * by_batch
    if weight is not None:
        scale, shift = weight * scale, weight * shift
    return Affine(moments.mean, scale, _with_rest(moments, scale, shift if bias is None else shift + bias), batch)


def rms_norm(moments: Moments, weight: Tensor | None, bias: Tensor | None, *, eps: float) -> Affine:
    r""":math:`\gamma x/\sqrt{\overline{x^2} + \epsilon} + \beta` (Zhang and Sennrich 2019, arXiv:1910.07467)."""
    scale = torch.rsqrt(_power(moments) + eps)
    return Affine(0.0, scale if weight is None else weight * scale, 0.0 if bias is None else bias)


def modulated_layer_norm(moments: Moments, scale: Tensor | None, shift: Tensor | None, *, eps: float) -> Affine:
    r""":math:`(1 + s)(x-\mu)/\sqrt{\sigma^2+\epsilon} + b`, s and b from a condition.

    Source: Peebles and Xie 2022, arXiv:2212.09748.
    """
    return standardized(moments, None if scale is None else one_plus(scale, moments.mean.dtype), shift, eps)


def modulated_rms_norm(moments: Moments, scale: Tensor | None, shift: Tensor | None, *, eps: float) -> Affine:
    r""":math:`(1 + s) x/\sqrt{\overline{x^2}+\epsilon} + b`, s and b from a condition, as in `modulated_layer_norm`."""
    return rms_norm(moments, None if scale is None else one_plus(scale, moments.mean.dtype), shift, eps=eps)


def gated_rms_norm(moments: Moments, gate: Tensor | None, bias: Tensor | None, *, eps: float) -> Affine:
    r""":math:`g x/\sqrt{\overline{x^2}+\epsilon}`, with a gate g for each value (Dao and Gu 2024, arXiv:2405.21060)."""
    return rms_norm(moments, gate, bias, eps=eps)


def positional_norm(moments: Moments, *, bessel: float, eps: float) -> Affine:
    r""":math:`(x-\mu)/\sqrt{\sigma^2+\epsilon}` by **unbiased** variances (Li et al. 2019, arXiv:1907.04312).

    ``bessel`` is C / (C - 1), the ratio of an unbiased variance to the table's.
    """
    scale = torch.rsqrt(moments.var * bessel + eps)
    return Affine(moments.mean, scale, _with_rest(moments, scale, 0.0))


def filter_response_norm(
    moments: Moments, weight: Tensor | None, bias: Tensor | None, learned_eps: Tensor | None, *, eps: float
) -> Affine:
    r""":math:`\gamma x/\sqrt{\overline{x^2} + \epsilon} + \beta` (Singh and Krishnan 2019, arXiv:1911.09737)."""
    floor = eps if learned_eps is None else eps + learned_eps.abs()
    scale = torch.rsqrt(_power(moments) + floor)
    return Affine(0.0, scale if weight is None else weight * scale, 0.0 if bias is None else bias)


def evo_norm_b0(
    moments: Moments,
    weight: Tensor | None,
    bias: Tensor | None,
    v: Tensor,
    *,
    eps: float,
    known: Moments | None = None,
    processes: ProcessGroup | None = None,
) -> LargerScale:
    r""":math:`\gamma x / \max(\sigma_B, v x + \sigma_I) + \beta` (Liu et al. 2020, arXiv:2004.02967).

    ``known`` replaces the batch's statistics.
    """
    batch = moments.over_batch(processes) if known is None else known
    of_batch, own = torch.sqrt(batch.var + eps), torch.sqrt(moments.var + eps)
    return LargerScale(1.0 if weight is None else weight, 0.0 if bias is None else bias, of_batch, v, own, batch)


def evo_norm_s0(
    moments: Moments, weight: Tensor | None, bias: Tensor | None, v: Tensor, *, groups: int, eps: float
) -> Gated:
    r""":math:`\gamma x\,\mathrm{sigmoid}(v x) / \sigma_G + \beta` (Liu et al. 2020, arXiv:2004.02967)."""
    scale = torch.rsqrt(moments.over_groups(groups).var + eps)
    return Gated(scale if weight is None else weight * scale, 0.0 if bias is None else bias, v)


def global_response_norm(moments: Moments, weight: Tensor, bias: Tensor | None, *, eps: float) -> Affine:
    r""":math:`\gamma x \lVert x_c\rVert/(\overline{\lVert x\rVert}+\epsilon) + \beta + x` (Woo et al. 2023)."""
    squares = _power(moments) * moments.count
    # The root's slope at 0 is infinite; a channel of zeros gets the subgradient 0.
    norm = torch.where(squares > 0, torch.where(squares > 0, squares, 1).sqrt(), 0)
    response = norm / (norm.mean(1, keepdim=True) + eps)
    return Affine(0.0, 1 + weight * response, 0.0 if bias is None else bias)


def _power(moments: Moments) -> Tensor:
    """The mean of the squares."""
    return moments.var + moments.mean.square()
