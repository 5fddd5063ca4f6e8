"""Run the model and gather the measurements that the rules judge."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from normwise.core.precision import in_fp64

from ..batches import Forward, batches_of, call_for, is_batch, run
from ..inputs import is_shape
from ..modules import tensors_in
from ..records import Trace
from ..statistics import nonfinite_values
from ..tracing import trace
from .constant_inputs import constant_inputs
from .evidence import Evidence
from .listening import Heard, listening
from .sites import has_memory

Run = Callable[..., Trace]


class Batches:
    """The batches of any source, as a loader that can be read repeatedly."""

    def __init__(self, items: list[Any]) -> None:
        self._items = items

    def __iter__(self) -> Iterator[Any]:
        return iter(self._items)


def gather(model: nn.Module, data: Any, *, skip_gain: float | None, forward: Forward | None, batches: int) -> Evidence:
    """Run the model with gradients and batch statistics, and again if running statistics, dropout or dead layers need
    it."""
    real = data is not None and not is_shape(data)
    call = forward or (call_for(model, data) if real else run)
    evidence = Evidence(model, real, data is not None)
    if real:
        taken = list(batches_of(model, data, batches))
        evidence.nonfinite_input = sum(nonfinite_values(x) for x in tensors_in(taken))
        data = data if is_batch(model, data) else Batches(taken)
    again = partial(trace, model, data, forward=call, skip_gain=skip_gain, batches=batches)
    by_batch = _first_run(evidence, call, partial(again, backward=True))
    if evidence.trace is not None:
        evidence.constant_inputs = constant_inputs(model, evidence.trace, again, call)
        evidence.dropped = _dropped(evidence, again)
        if real and not evidence.fresh and any(has_memory(site.module) for site in evidence.sites.values()):
            with listening(model) as by_memory:
                again(batch_statistics=False)
            evidence.gap = _gap(by_batch.outputs, by_memory.outputs)
    return evidence


def _first_run(evidence: Evidence, call: Forward, run: Run) -> Heard:
    def looked_at(model: nn.Module, batch: Any) -> Any:
        output = call(model, batch)
        evidence.nonfinite_result += sum(nonfinite_values(x) for x in tensors_in(output))
        return output

    with listening(evidence.model) as heard:
        try:
            evidence.trace = run(forward=looked_at)
        except ValueError as error:
            if "more than 1" not in str(error):
                raise
            evidence.failure = str(error)
    evidence.sites, evidence.dropouts = heard.sites, heard.dropouts
    return heard


def _dropped(evidence: Evidence, again: Run) -> dict[str, float]:
    """The factor by which dropout changes the variance in front of each normalizer over the batch."""
    sites = [s for s in evidence.batch_sites if s.name in evidence.dropouts and has_memory(s.module) and s.variances]
    if not sites:
        return {}
    with listening(evidence.model, dropping=True) as heard:
        again()
    pairs = [(s.name, s.moments()[1].sum(), heard.sites[s.name].moments()[1].sum()) for s in sites]
    return {name: float(dropping / without) for name, without, dropping in pairs if without > 0}


def _gap(by_batch: list[Tensor], by_memory: list[Tensor]) -> float | None:
    """Mean squared difference of the outputs over their variance."""
    pairs = [(in_fp64(a), in_fp64(b)) for a, b in zip(by_batch, by_memory, strict=False) if a.shape == b.shape]
    if not pairs:
        return None
    first, second = (torch.cat([t.flatten() for t in column]) for column in zip(*pairs, strict=True))
    if not bool(first.isfinite().all()):
        return None
    spread = first.var(correction=0)
    gap = float((first - second).square().mean() / spread) if spread > 0 else None
    return float("inf") if gap is not None and gap != gap else gap
