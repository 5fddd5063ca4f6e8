"""Initial values for a new normalizer's γ and β, from the running statistics of the old one."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..core.moments import Moments
from ..core.precision import in_fp64
from ..layers import LayerNorm2d, RMSNorm2d
from ..layers.remembering import memory_of
from ..layers.response_norm import FilterResponseNorm1d, FilterResponseNorm2d, FilterResponseNorm3d

_WITHOUT_MEAN = (RMSNorm2d, FilterResponseNorm1d, FilterResponseNorm2d, FilterResponseNorm3d)
_INSTANCE = nn.modules.instancenorm._InstanceNorm


class Affine(NamedTuple):
    """γ and β, ``[C]``."""

    weight: Tensor
    bias: Tensor


def old_affine(layer: nn.Module, channels: int) -> Affine:
    """γ and β of a layer in fp64; ones and zeros if it has none."""
    weight, bias = getattr(layer, "weight", None), getattr(layer, "bias", None)
    like = next((in_fp64(t.detach()) for t in (weight, bias) if t is not None), torch.zeros(1, dtype=torch.float64))
    return Affine(
        like.new_ones(channels) if weight is None else in_fp64(weight.detach()),
        like.new_zeros(channels) if bias is None else in_fp64(bias.detach()),
    )


def pooled_for(new: nn.Module, table: Moments) -> Moments | None:
    """The statistics of the new normalizer for a sample with the moments of the population, ``[1, C]``.

    None for a normalizer for which this cannot be computed.
    """
    if isinstance(new, nn.GroupNorm):
        return table.over_groups(new.num_groups)
    if isinstance(new, _INSTANCE):
        return table
    if isinstance(new, LayerNorm2d):
        return table.over_channels()
    if isinstance(new, _WITHOUT_MEAN):
        squares = Moments(table.var + table.mean.square(), torch.zeros_like(table.var), 1)
        power = squares.over_channels().mean if isinstance(new, RMSNorm2d) else squares.mean
        return Moments(torch.zeros_like(power), power, 1)
    return None


def data_free(old: nn.Module, new: nn.Module, channels: int) -> Affine | None:
    r"""γ' and β' for which ``new`` has the same output on an average sample as ``old`` with its running statistics.

    .. math:: \gamma' = \gamma\,\frac{\sqrt{\sigma_g^2 + \epsilon'}}{\sqrt{\sigma_c^2 + \epsilon}}, \qquad
              \beta' = \beta + \gamma\,\frac{\mu_g - \mu_c}{\sqrt{\sigma_c^2 + \epsilon}}

    with the channel's running μ_c and σ_c², and those of its pool in the new layer, μ_g and σ_g², by the law of total
    variance. None if the old layer has no running statistics or the pools of the new one are unknown.

    >>> old = nn.BatchNorm2d(4)
    >>> _ = old.running_mean.copy_(torch.tensor([0.0, 2.0, 1.0, 1.0]))
    >>> data_free(old, nn.GroupNorm(2, 4), 4).bias.round(decimals=3)
    tensor([ 1., -1.,  0.,  0.], dtype=torch.float64)
    """
    memory = memory_of(old)
    if memory is None:
        return None
    mean, var = in_fp64(memory.mean.detach()), in_fp64(memory.var.detach())
    pool = pooled_for(new, Moments(mean.unsqueeze(0), var.unsqueeze(0), 1))
    if pool is None:
        return None
    weight, bias = old_affine(old, channels)
    scale = weight / (var + _eps(old)).sqrt()
    return Affine(
        scale * (pool.var.squeeze(0) + _eps(new)).sqrt(), bias + scale * (pool.mean.squeeze(0) - mean).expand(channels)
    )


def _eps(layer: nn.Module) -> float:
    eps = getattr(layer, "eps", 1e-5)
    return torch.finfo(torch.float32).eps if eps is None else float(eps)
