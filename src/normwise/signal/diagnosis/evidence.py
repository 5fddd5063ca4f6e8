"""The measurements that the rules of a diagnosis judge."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import nn

from normwise.weights.layers import LAYERS

from ..modules import module_name
from ..records import Tap, Trace
from .sites import BATCH, Site, has_memory


@dataclass
class Evidence:
    """The measurements of a model; a rule whose measurements are missing finds nothing.

    real: whether the model ran on data, not on noise: running statistics cannot be judged on noise.
    given: whether the caller chose the batch size.
    nonfinite_input, nonfinite_result: the numbers of values in the data, and in the result of ``forward``, that are not
        finite.
    trace: None if the model failed; ``failure`` then says why.
    constant_inputs: for layers with constant channels, the share of constant channels in their input.
    dropouts: the dropout before each normalizer over the batch, by the normalizer's name; ``dropped``: the factor by
        which it changes the variance there.
    gap: the mean squared difference between the outputs with batch statistics and with running statistics, divided by
        their variance; infinite if the latter are not finite.
    """

    model: nn.Module
    real: bool = False
    given: bool = False
    nonfinite_input: int = 0
    nonfinite_result: int = 0
    sites: dict[str, Site] = field(default_factory=dict)
    trace: Trace | None = None
    failure: str | None = None
    constant_inputs: dict[str, float] = field(default_factory=dict)
    dropouts: dict[str, str] = field(default_factory=dict)
    dropped: dict[str, float] = field(default_factory=dict)
    gap: float | None = None

    @property
    def taps(self) -> tuple[Tap, ...]:
        return self.trace.taps if self.trace else ()

    @property
    def batch_sites(self) -> Iterator[Site]:
        return (site for site in self.sites.values() if site.over_batch)

    @property
    def remembering(self) -> Iterator[tuple[str, nn.Module]]:
        """The modules with running statistics."""
        return ((name, module) for name, module in self.model.named_modules() if has_memory(module))

    @property
    def batch_norms(self) -> Iterator[tuple[str, nn.Module]]:
        """All normalizers over the batch, also those that did not run."""
        return ((name, module) for name, module in self.model.named_modules() if isinstance(module, BATCH))

    @cached_property
    def _modules(self) -> dict[str, nn.Module]:
        return dict(self.model.named_modules())

    def module_of(self, tap: Tap) -> nn.Module | None:
        """The module whose output the tap is."""
        return self._modules.get(module_name(tap.name))

    def path(self) -> tuple[Tap, ...]:
        """The taps over which the signal is compared: blocks, or the outputs of layers with weights."""
        if self.trace is None:
            return ()
        return self.trace.blocks or tuple(tap for tap in self.trace.layers if isinstance(self.module_of(tap), LAYERS))

    @property
    def fresh(self) -> bool:
        """Whether the net has never been trained: all normalizers with running statistics are in their initial
        state."""
        return all(untouched(module) for _, module in self.remembering)


def untouched(module: nn.Module) -> bool:
    """Whether a normalizer is in its initial state: no batch seen, and scale and shift equal for all channels."""
    if has_memory(module) and int(getattr(module, "num_batches_tracked", None) or 0):
        return False
    own = [p.detach() for p in module.parameters(recurse=False) if p.numel()]
    return all(bool((p == p.flatten()[0]).all()) for p in own) and _remembers_nothing(module)


def _remembers_nothing(module: nn.Module) -> bool:
    mean, variance = (getattr(module, key, None) for key in ("running_mean", "running_var"))
    moved = (isinstance(mean, torch.Tensor) and bool(mean.any())) or (
        isinstance(variance, torch.Tensor) and bool((variance != 1).any())
    )
    return not moved
