"""Strategies for the normalizers that a model has: the steps before, during and after a training."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import nn

from ...layers import Norm
from ...layers.remembering import memory_of
from ...surgery import Swap, freeze, normalizer_free, recalibrate, swap
from .normalizer_free import ALPHA, NORMALIZER_FREE, SKIP_GAIN
from .replacement import normalization_layers, replace_normalizers
from .strategy_names import ANNEAL, ANNEALED_AT, FROZEN, RECALIBRATED, SWAP, Strategy, strategy_of

Forward = Callable[[nn.Module, Any], Any]
# At t = 0 the new layers would not run; but the optimizer needs gradients of all parameters from its first step on, and
# the step time must be measured with both layers.
_BEGUN = 1e-6


class Treatment:
    """A strategy applied to one model; `sites` are the names of the layers that it changes."""

    def __init__(self, strategy: Strategy, model: nn.Module, sites: tuple[str, ...], change: Swap | None) -> None:
        self.strategy, self.model, self.sites, self._change = strategy, model, sites, change
        self.ended = not strategy.has_an_end

    def advance(self, share: float) -> None:
        """Call before a step with the share of the training, from 0 to 1, that is done."""
        if self.strategy.method == ANNEAL and self._change is not None:
            self._change.advance(min(1.0, max(share, _BEGUN) / ANNEALED_AT))

    def end(self, loader: Iterable[Any], forward: Forward | None = None) -> None:
        """The last step of the strategy, after training and before the model is evaluated."""
        if self.strategy.method == ANNEAL and self._change is not None and not self.ended:
            self._change.advance(1.0)
            self._change.finish()
        if self.strategy.method == RECALIBRATED:
            with warnings.catch_warnings():
                # Few samples are its use case; the comparison measures how well it works with them.
                warnings.simplefilter("ignore", UserWarning)
                recalibrate(self.model, loader, forward)
        self.ended = True


def treat(model: nn.Module, strategy: Strategy, ranks: Mapping[str, int], example: Any = None) -> Treatment:
    """Begin a strategy on a model, which is changed in place.

    `ranks` are the numbers of spatial dimensions of its normalization layers' maps. Raises ValueError, with the model
    unchanged, if the strategy cannot start from this model.
    """
    name = f"{strategy.norm}, {strategy.adjective}"
    remembering = [site for site, layer in normalization_layers(model).items() if memory_of(layer) is not None]
    if not remembering:
        raise ValueError(f"{name}: {type(model).__name__} has no layer with running statistics.")
    if strategy.needs_statistics and not has_trained_statistics(model):
        raise ValueError(
            f"{name}: it needs the running statistics of a trained model, and those of {type(model).__name__} "
            "are fresh (mean 0, variance 1); give trained weights (weights=, --weights)."
        )
    if strategy.method in (SWAP, ANNEAL):
        return _swapped(model, strategy, example)
    places = {site: ranks[site] for site in remembering if site in ranks}
    sites = tuple(replace_normalizers(model, strategy.norm, places))
    if strategy.method == FROZEN:
        freeze(model)
    return Treatment(strategy, model, sites, None)


def _swapped(model: nn.Module, strategy: Strategy, example: Any) -> Treatment:
    start = "data-free" if strategy.method == SWAP else "exact"
    change = swap(model, strategy.norm, start=start, example_inputs=example)
    inside = dict(change.model.named_modules())
    names = (row.name for row in change.rows if row.outcome == "swapped")
    # A layer with its own dropout and activation has become a Sequential.
    sites = tuple(f"{name}.norm" if f"{name}.norm" in inside else name for name in names)
    treatment = Treatment(strategy, change.model, sites, change)
    treatment.advance(_BEGUN)
    return treatment


def has_trained_statistics(model: nn.Module) -> bool:
    """Whether any layer has running statistics that differ from the initial ones."""
    memories = [memory for module in model.modules() if (memory := memory_of(module)) is not None]
    return any(bool((memory.mean != 0).any() or (memory.var != 1).any()) for memory in memories)


def without_normalizers(model: nn.Module, example: Any) -> nn.Module:
    """Change the model in place into the contestant `nf`; ValueError or TypeError if that is impossible."""
    return normalizer_free(model, example, ALPHA, skip_gain=SKIP_GAIN, inplace=True).model


def is_whole_model_only(norm: Norm) -> bool:
    """Whether a contestant changes the whole model instead of single layers."""
    return norm == NORMALIZER_FREE or strategy_of(norm) is not None
