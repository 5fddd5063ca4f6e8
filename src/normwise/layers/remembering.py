"""Finding the running statistics of a layer, of this package or another."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn
from torch.nn.modules.instancenorm import _InstanceNorm

from .running_layer import RunningLayer, StatisticsBank


class Memory(NamedTuple):
    """The buffers of one layer: mean and variance ``[C]``, and the counter of batches if there is one."""

    mean: Tensor
    var: Tensor
    batches: Tensor | None


def memory_of(layer: nn.Module) -> Memory | None:
    """The running statistics by which a layer normalizes in evaluation, or None if it has none.

    They are recognized by the buffers ``running_mean`` and ``running_var``, one number for each channel: in layers of
    torch, timm, torchvision and this package, frozen ones, and subclasses. If a layer has banks, the one in use counts.

    >>> memory_of(nn.BatchNorm2d(3)).var, memory_of(nn.BatchNorm2d(3, track_running_stats=False))
    (tensor([1., 1., 1.]), None)
    """
    if isinstance(layer, StatisticsBank):
        return None
    holder = layer.make_bank(layer.bank) if isinstance(layer, RunningLayer) and layer.bank is not None else layer
    mean, var = (holder._buffers.get(name) for name in ("running_mean", "running_var"))
    if mean is None or var is None or mean.dim() != 1 or mean.shape != var.shape:
        return None
    return Memory(mean, var, holder._buffers.get("num_batches_tracked"))


def remembers_instances(layer: nn.Module) -> bool:
    """Whether the running statistics are the average of the samples' own moments, not the moments of all samples."""
    return isinstance(layer, _InstanceNorm)
