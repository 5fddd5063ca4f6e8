"""Layers with running statistics for each channel, of this package and of others."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn
from torch.nn.modules.instancenorm import _InstanceNorm

from .running_layer import RunningLayer, StatisticsBank


class Memory(NamedTuple):
    """The buffers of one layer: ``[C]``, ``[C]`` and the counter of batches, where it has one."""

    mean: Tensor
    var: Tensor
    batches: Tensor | None


def memory_of(layer: nn.Module) -> Memory | None:
    """The memory that a layer normalizes by in evaluation, or None for a layer that has none.

    Known by the buffers ``running_mean`` and ``running_var``, one number for each channel: torch's, timm's,
    torchvision's and our layers, frozen ones, and subclasses of anyone's. Of a layer with banks it is the one in use.

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
    """Whether the memory is the average over samples of their own moments, not the moments of all of them."""
    return isinstance(layer, _InstanceNorm)
