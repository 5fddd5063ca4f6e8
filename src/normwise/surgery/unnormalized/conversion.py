"""One conversion to a normalizer-free net, inside a transaction (`ModelChange`)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ...core.model_change import ModelChange
from ...core.precision import in_fp64
from ...layers.mixture_layer import MixtureLayer
from ...nets.residual import SkipGain
from ...signal.diagnosis.evidence import untouched
from ...signal.predicting import inputs_of
from ...signal.prediction.graph import structure_of
from ...signal.prediction.options import Options
from ...signal.prediction.walk import walk
from ...signal.protection import on_cpu
from ...signal.records import Trace
from ..folding import norms
from .openings import CALLER, Opening, take_out
from .plan import Plan, plan_for
from .records import FreedBlock, Replaced
from .sizing import Remembered, Sizing, Start
from .standardizing import fresh_bias, standardized


@dataclass
class Done:
    """The result of a conversion: scaled branches, β at the blocks' inputs, replaced modules, and kind of start."""

    skips: dict[str, SkipGain]
    betas: dict[str, float]
    replaced: list[Replaced]
    folded: bool

    def rows(self, predicted: Trace, after: Trace) -> list[FreedBlock]:
        expected, found = ({tap.name: tap.variance for tap in trace.blocks} for trace in (predicted, after))
        nothing = float("nan")
        return [
            FreedBlock(name, float(skip.alpha), self.betas[name], expected[name], found.get(name, nothing))  # type: ignore[arg-type]
            for name, skip in self.skips.items()
        ]


def convert(change: ModelChange, example: Any, alpha: float, skip_gain: float) -> Done:
    """Remove the normalizers, insert the layers that replace them, and set their gains."""
    trained = any(p.requires_grad for p in change.model.parameters())
    openings = take_out(change, example)
    plan = _plan(change.model, openings, example)
    remembered = {opening: found for opening in openings if (found := _remembered(opening)) is not None}
    folded = any(not untouched(opening.norm) for opening in remembered)
    new = {layer: standardized(layer, gamma) for layer, gamma in plan.layers.items()}
    for layer in new.values() if folded else ():
        fresh_bias(layer)
    skips = {name: SkipGain(skip_gain, 1.0) for name in plan.ends}
    _put(change, plan, new, skips)
    for skip in skips.values():
        skip.gain.requires_grad_(trained)  # type: ignore[operator, union-attr]
    affines = {opening.affine for opening in openings if opening not in plan.feeders}
    start = _start(plan, new, remembered) if folded else Start({}, {}, False)
    sizing = Sizing(set(new.values()), affines, set(skips.values()), start, alpha)
    return Done(skips, sizing.run(change.model, example), _replaced(plan, openings, new), folded)


def _plan(model: nn.Module, openings: Sequence[Opening], example: Any) -> Plan:
    with on_cpu(model), torch.no_grad():
        try:
            structure = structure_of(model)
            values = walk(structure, inputs_of(model, example), Options(1.0, True))
        except (ValueError, TypeError) as error:
            raise ValueError(f"{CALLER} needs a net that nw.predict can follow, and {error}") from error
    return plan_for(structure, values, openings)


def _put(change: ModelChange, plan: Plan, new: Mapping[nn.Module, nn.Module], skips: Mapping[str, SkipGain]) -> None:
    """Put the new modules in place; a skip gain replaces a removed normalizer, or is appended to another module."""
    behind = {plan.ends[name]: skip for name, skip in skips.items()}
    gone = {opening.affine for opening in plan.feeders}
    for old in [*new, *gone, *(module for module in behind if module not in new and module not in gone)]:
        successor, skip = new.get(old, nn.Identity() if old in gone else old), behind.get(old)
        if skip is not None:
            both = nn.Sequential(OrderedDict(layer=successor, skip=skip))
            successor = skip if old in gone else both
        change.replace(old, successor)


def _remembered(opening: Opening) -> Remembered | None:
    """Scale and shift of a normalizer with running statistics in evaluation; None without running statistics.

    Raises ValueError if its numbers are not finite.
    """
    norm: Any = opening.norm
    if not norms.is_norm(norm) or norm.running_mean is None or isinstance(norm, MixtureLayer):
        return None
    numbers = [t for t in (norm.running_mean, norm.running_var, norm.weight, norm.bias) if t is not None]
    if not all(bool(torch.isfinite(t).all()) for t in numbers) or bool((norm.running_var + norm.eps <= 0).any()):
        raise ValueError(
            f"{CALLER}: the statistics or parameters of {opening.name or 'the model'} ({type(norm).__name__}) are not "
            "finite and positive; compute them again first, nw.recalibrate(model, loader)."
        )
    found = norms.map_of(norm, norm.weight, norm.bias)
    return Remembered(*(in_fp64(t).cpu() for t in found[:2]))


def _start(plan: Plan, new: Mapping[nn.Module, nn.Module], remembered: Mapping[Opening, Remembered]) -> Start:
    feeding = {layer: remembered.get(opening) for opening, layer in plan.feeders.items()}
    layers = {successor: (layer, feeding.get(layer)) for layer, successor in new.items()}
    affines: dict[nn.Module, Remembered] = {
        opening.affine: was for opening, was in remembered.items() if opening not in plan.feeders
    }
    return Start(layers, affines, True)


def _replaced(plan: Plan, openings: Sequence[Opening], new: Mapping[nn.Module, nn.Module]) -> list[Replaced]:
    ends = set(plan.ends.values())
    found = []
    for opening in openings:
        now = "scale and shift" if opening not in plan.feeders else "nothing"
        if opening.affine in ends:
            now = "skip gain" if opening in plan.feeders else "scale, shift and skip gain"
        found.append(Replaced(opening.name, type(opening.norm).__name__, "normalizer", now))
    for layer in new:
        found.append(Replaced(plan.names[layer], type(layer).__name__, "layer", "scaled weight standardization"))
    return found
