"""Compute new running statistics of layers from their measured inputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..core.precision import in_fp64
from ..layers.remembering import Memory, memory_of
from .gauges import remember
from .generations import generations
from .population import Population
from .recalibrated import RecalibratedLayer
from .surveying import Survey
from .together import Together


class Statistics(NamedTuple):
    """The new running statistics of a layer, in its buffers' dtypes, and the population that they come from."""

    mean: Tensor
    var: Tensor
    population: Population


class Renewal:
    """New statistics for the layers of a model, which keeps its old ones during the passes.

    ``old`` are the original buffers, not the copies of the model on loan.
    """

    def __init__(self, layers: Mapping[nn.Module, str], blend: float, together: Together) -> None:
        self._layers, self._blend, self._together = layers, blend, together
        self.old: dict[nn.Module, Memory] = {layer: memory_of(layer) for layer in layers}  # type: ignore[misc]

    def at_once(self, survey: Survey) -> dict[nn.Module, Statistics]:
        """All layers in one pass, normalizing by each batch's own statistics."""
        return self._surveyed(survey, list(self._layers), adopt=True)

    def by_generations(self, survey: Survey) -> dict[nn.Module, Statistics]:
        """One pass for each generation, which uses its new statistics in the later passes."""
        with self._together.in_step():
            order = generations(self._layers, survey.once)
        new: dict[nn.Module, Statistics] = {}
        for generation in order:
            found = self._surveyed(survey, generation, adopt=False)
            for layer, statistics in found.items():
                remember(layer, statistics.mean, statistics.var)
            new |= found
        return new

    def _surveyed(self, survey: Survey, layers: list[nn.Module], *, adopt: bool) -> dict[nn.Module, Statistics]:
        with self._together.in_step():
            local = survey.of({layer: self._layers[layer] for layer in layers}, adopt=adopt)
        pooled = {layer: self._together.pooled(local[layer], self.old[layer].mean) for layer in layers}
        return {layer: self._renewed(layer, found) for layer, found in pooled.items() if found.samples}

    def _renewed(self, layer: nn.Module, found: Population) -> Statistics:
        old, name = self.old[layer], self._layers[layer]
        new = torch.stack([found.mean, found.var])
        if self._blend < 1:
            # The buffers of the processes may differ: those of the first are used, as in DistributedDataParallel.
            before = self._together.first(torch.stack([old.mean, old.var]).to(new))
            if not bool(torch.isfinite(before).all()):
                raise ValueError(
                    f"recalibrate: the old statistics of {name} hold NaN or infinite values and cannot be blended with "
                    "new ones; write blend=1.0."
                )
            new = before.lerp(new, self._blend)
        mean, var = new[0].to(old.mean), new[1].to(old.var)
        if not bool(torch.isfinite(mean).all() & torch.isfinite(var).all()):
            raise ValueError(
                f"recalibrate: the new statistics of {name} do not fit into {old.var.dtype}, in which the layer keeps "
                f"them; convert it with .float()."
            )
        return Statistics(mean, var, found)


def row_of(name: str, layer: nn.Module, old: Memory, new: Statistics | None, tolerance: float) -> RecalibratedLayer:
    if new is None:
        return RecalibratedLayer(name, "kept", "was not called")
    unsure, drift = new.population.uncertainty(), _drift(layer, old, new)
    return RecalibratedLayer(name, "recalibrated", None, new.population.samples, drift, unsure, unsure <= tolerance)


def _drift(layer: nn.Module, old: Memory, new: Statistics) -> float | None:
    """The drift of the statistics in units of the old σ; None for statistics that have never been updated."""
    if old.batches is not None and int(old.batches) == 0:
        return None
    eps = float(getattr(layer, "eps", 1e-5))
    before, after = (torch.stack([in_fp64(t.mean), in_fp64(t.var)]) for t in (old, new))
    deviation, later = (before[1] + eps).sqrt(), (after[1] + eps).sqrt()
    moved = ((after[0] - before[0]).square() + (later - deviation).square()) / deviation.square()
    return float(moved.mean().sqrt())
