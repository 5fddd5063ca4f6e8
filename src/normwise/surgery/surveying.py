"""Runs of a model on loan that measure the inputs of its layers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import nn

from ..core.moments import Moments
from ..signal.protection import as_it_was, evaluate, random_numbers_kept
from ..signal.tracing import run_eagerly
from .batches import Batches
from .gauges import listening, population_for, remember
from .population import Population
from .together import Together

# A loader that may be endless is read until the uncertainty is below this share, and for at least so many samples.
_SURE_OF_ENDLESS, _FEWEST_OF_ENDLESS = 0.01, 1000


class Stop:
    """Decides when to stop reading: when the uncertainty is below the tolerance, or at the loader's end."""

    def __init__(self, tolerance: float | None, batches: Batches, together: Together) -> None:
        # Several processes would have to agree after each batch, so each reads its whole loader.
        endless = tolerance is None and not batches.has_an_end() and not together
        self._share = _SURE_OF_ENDLESS if endless else tolerance
        self._fewest = _FEWEST_OF_ENDLESS if endless else 2

    def __call__(self, populations: Iterable[Population]) -> bool:
        if self._share is None:
            return False
        seen = [population for population in populations if population.samples]
        return bool(seen) and all(p.samples >= self._fewest and p.uncertainty() <= self._share for p in seen)


@contextmanager
def on_loan(model: nn.Module) -> Iterator[None]:
    """Inside the block the model is in evaluation, uncompiled, without gradients and on copies of its buffers;
    afterwards everything is restored."""
    with (
        as_it_was(model),
        random_numbers_kept({p.device for p in model.parameters()}),
        run_eagerly(),
        torch.inference_mode(False),
        torch.no_grad(),
    ):
        evaluate(model, batch_statistics=False, stochastic_depth=False)
        yield


class Survey:
    """Passes over the batches that measure the inputs of layers; only inside `on_loan`."""

    def __init__(self, model: nn.Module, batches: Batches, stop: Stop, caller: str) -> None:
        self._model, self._batches, self._stop, self._caller = model, batches, stop, caller
        self.batches = 0

    def of(self, layers: Mapping[nn.Module, str], *, adopt: bool) -> dict[nn.Module, Population]:
        """The inputs of the layers in one pass; with ``adopt`` they normalize each batch by its own statistics."""
        populations = {layer: population_for(layer) for layer in layers}
        self.batches = 0

        def hear(layer: nn.Module, table: Moments) -> None:
            where = f"{self._caller}: batch {self.batches + 1} at {layers[layer]}"
            _check_finite(table, where)
            populations[layer].add(table)
            if adopt and table.mean.shape[0] > 0:
                _adopt(layer, table, populations[layer], where)

        with listening(layers, hear, self._caller):
            for number in self._batches.through(self._model):
                self.batches = number
                if self._stop(populations.values()):
                    break
        return populations

    def once(self) -> None:
        """Run the model on a single batch."""
        next(self._batches.through(self._model))


def _check_finite(table: Moments, where: str) -> None:
    if not bool(torch.isfinite(table.mean).all() & torch.isfinite(table.var).all()):
        raise ValueError(
            f"{where} holds values that are NaN or infinite, or whose squares are; leave such batches out, or repair "
            "the weights that produce them."
        )


def _adopt(layer: nn.Module, table: Moments, so_far: Population, where: str) -> None:
    """Let the layer use the statistics of this batch; if it has one value per channel, those of the batches so far."""
    own = population_for(layer)
    own.add(table)
    shown = own if own.has_variance() else so_far
    if not shown.has_variance():
        raise ValueError(
            f"{where} holds one value per channel, which has no variance; use larger batches, or upstream='running'."
        )
    remember(layer, shown.mean, shown.spread)
