"""Runs of a model that measure what its layers are given, with the model on loan."""

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

# A loader that may be endless is read until its means are this sure, and at least so many samples.
_SURE_OF_ENDLESS, _FEWEST_OF_ENDLESS = 0.01, 1000


class Stop:
    """When enough has been read: below a share, or at the loader's end."""

    def __init__(self, tolerance: float | None, batches: Batches, together: Together) -> None:
        # Processes would have to agree after each batch: they read what they have.
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
    """In evaluation, eagerly, without gradients and on copies of the buffers; afterwards all is as it was."""
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
    """Passes over the batches; inside `on_loan` only."""

    def __init__(self, model: nn.Module, batches: Batches, stop: Stop, caller: str) -> None:
        self._model, self._batches, self._stop, self._caller = model, batches, stop, caller
        self.batches = 0

    def of(self, layers: Mapping[nn.Module, str], *, adopt: bool) -> dict[nn.Module, Population]:
        """What the layers are given in one pass; ``adopt`` lets them normalize each batch by its own statistics."""
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
        """A single batch, for who wants to watch."""
        next(self._batches.through(self._model))


def _check_finite(table: Moments, where: str) -> None:
    if not bool(torch.isfinite(table.mean).all() & torch.isfinite(table.var).all()):
        raise ValueError(
            f"{where} holds NaN or infinite values, or values whose squares are; leave such batches out, or mend the "
            "weights that make them."
        )


def _adopt(layer: nn.Module, table: Moments, so_far: Population, where: str) -> None:
    """A batch of one value per channel has no variance: it goes by what there was until now."""
    own = population_for(layer)
    own.add(table)
    shown = own if own.has_variance() else so_far
    if not shown.has_variance():
        raise ValueError(
            f"{where} holds one value per channel, which has no variance to go on with; use larger batches, or "
            "upstream='running'."
        )
    remember(layer, shown.mean, shown.spread)
