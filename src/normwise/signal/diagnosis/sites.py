"""The normalizers of a model, and their inputs."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from normwise.layers import NORMALIZERS, EvoNormB0, LayerNorm2d, RMSNorm2d

BATCH = (nn.modules.batchnorm._BatchNorm,)
INSTANCE = (nn.modules.instancenorm._InstanceNorm,)
NORMALIZER_CLASSES = (
    *BATCH,
    *INSTANCE,
    *(nn.GroupNorm, nn.LayerNorm, nn.RMSNorm),
    *(layer_class for name, row in NORMALIZERS.items() if name != "none" for layer_class in row.layers.values()),
)


def normalizes(module: nn.Module | None) -> bool:
    """Whether the module is a normalizer or has one inside."""
    return module is not None and any(isinstance(m, NORMALIZER_CLASSES) for m in module.modules())


def is_affine(module: nn.Module) -> bool:
    """Whether the output is the normalized input times a scale plus a shift, without an activation."""
    kinds = (*BATCH, *INSTANCE, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm, LayerNorm2d, RMSNorm2d)
    acts = getattr(module, "activation", None) is not None or isinstance(module, EvoNormB0)
    return isinstance(module, kinds) and not acts


def has_memory(module: nn.Module) -> bool:
    """Whether it keeps running statistics for the evaluation mode."""
    return any(isinstance(getattr(module, key, None), Tensor) for key in ("running_mean", "running_var"))


@dataclass
class Source:
    """The module that computed the input of a normalizer: a layer with a bias, or a normalizer.

    shared: whether the input has another reader than the normalizer, such as a shortcut.
    """

    name: str
    module: nn.Module
    shared: bool = False


@dataclass
class Site:
    """A normalizer, the shape of its input, and per batch the moments of its channels."""

    name: str
    module: nn.Module
    shape: torch.Size
    source: Source | None = None
    means: list[Tensor] = field(default_factory=list)
    variances: list[Tensor] = field(default_factory=list)
    samples_seen: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    """For each batch the mean ``[N, C]`` of every sample, and each sample's contribution to the batch's variance."""

    @property
    def over_batch(self) -> bool:
        return isinstance(self.module, BATCH)

    @property
    def samples(self) -> int:
        return self.shape[0]

    @property
    def by_channel(self) -> bool:
        """Whether it subtracts from each channel the channel's own mean, which removes any constant added before."""
        module = self.module
        if isinstance(module, nn.GroupNorm):
            return module.num_groups == module.num_channels
        return isinstance(module, (*BATCH, *INSTANCE)) and not isinstance(module, EvoNormB0)

    @property
    def pool(self) -> int | None:
        """The number of values that share one mean or variance; None if the class does not tell."""
        module, positions = self.module, math.prod(self.shape[2:])
        if isinstance(module, nn.GroupNorm):
            return self.shape[1] // module.num_groups * positions
        if isinstance(module, (nn.LayerNorm, nn.RMSNorm)):
            return math.prod(module.normalized_shape)
        if isinstance(module, (LayerNorm2d, RMSNorm2d)):
            return self.shape[1]
        if isinstance(module, INSTANCE):
            return positions
        return self.samples * positions if self.over_batch else None

    def moments(self) -> tuple[Tensor, Tensor]:
        """Mean and variance ``[C]`` over the batches: what running statistics should be."""
        return torch.stack(self.means).mean(0), torch.stack(self.variances).mean(0)
