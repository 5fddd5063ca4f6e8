"""`recalibrate`: compute running statistics from data."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from ..core.model_change import ModelChange
from ..core.numbers import check_number
from ..core.processes import ProcessGroup
from ..layers.remembering import Memory, memory_of
from ..signal.batches import Forward
from ..signal.modules import unwrapped, watched_modules
from .batches import Batches
from .evalnorm import EvalNorm, evalnorm_of
from .given import check_model
from .recalibrated import SURE, Recalibrated
from .renewal import Renewal, Statistics, row_of
from .surveying import Stop, Survey, on_loan
from .together import Together
from .transition import check_closed

METHODS = ("population", "evalnorm")
UPSTREAM = ("batch", "running")
_NAME = "recalibrate"


def recalibrate(
    model: nn.Module,
    loader: Iterable[Any],
    forward: Forward | None = None,
    method: str = "population",
    steps: int | None = None,
    blend: float = 1.0,
    process_group: ProcessGroup | str | None = None,
    *,
    upstream: str = "batch",
    tolerance: float | None = None,
) -> Recalibrated:
    r"""Compute the running statistics of every layer from data, in place, and report how far they moved.

    .. math:: \mu = \overline{x}, \quad \sigma^2 = \frac{1}{n - 1}\sum (x - \mu)^2
              \qquad \text{over all inputs of the layer}

    The moments of the batches are pooled exactly, weighted by their numbers of values, so a short last batch has its
    correct weight. It works on torch's, timm's, torchvision's and this package's layers, also frozen ones, and on any
    subclass with the buffers ``running_mean`` and ``running_var``. The calls of a layer are pooled; a layer of this
    package counts only positions within its ``mask``, and tracked InstanceNorm averages over samples as in training.

    Only these buffers change: the model runs without gradients, in evaluation (no dropout) and on copies of all
    buffers. Modes, hooks, momentum and random numbers are restored afterwards, and after an exception everything. A
    counter of batches that is smaller than the number of batches seen is raised to it.

    Args:
        loader: an iterable of batches. Of a tuple or list the model gets as many items as its ``forward`` requires, of
            a dict the entries that are parameters of its ``forward``.
        forward: called as ``forward(model, batch)`` instead.
        method: ``"population"``, or ``"evalnorm"`` for nets that were trained with few samples in a batch: BatchNorm
            layers become `EvalNorm`, whose statistics in evaluation include the sample itself, as those of a training
            batch do. The loader's batches must have the size of the training. The share of a sample is estimated for
            each layer by the regression of its batch's mean on its own.
        steps: the largest number of batches to read; a shorter loader is no error. By default all of them.
        blend: the weight of the new statistics; the old ones have the rest.
        process_group: the processes whose data are pooled: by default all of them if `torch.distributed` is
            initialized. Each reads its own loader, of any length, and all get the same statistics.
        upstream: the statistics that layers use during the passes. ``"batch"``: those of each batch, as in training;
            one pass over the loader. ``"running"``: the new ones, as in evaluation; one pass for each generation of
            layers, beginning with those that depend on no other. Its result does not depend on the batch size.
        tolerance: stop as soon as the standard error of every mean is below this share of its σ. A loader without a
            length, which may be endless, is read until the share is 0.01 and at least 1000 samples were read.

    Warns (UserWarning) if there are too few samples, so that a mean's standard error is above ``tolerance`` or 0.05 of
    its σ, and if statistics moved by more than one old σ: a net trained on other data may lose accuracy.

    Raises TypeError if the model is no module or the loader no iterable, and for batches that do not fit the model;
    ValueError for a model without such layers, an empty loader, NaN or infinite values in front of a layer; and the
    errors of model and loader.

    Source: Wu and Johnson 2021, arXiv:2105.07576 ("precise BatchNorm"), which averages the batches' variances; torch's
    `update_bn` weights batches, not samples. Singh and Shrivastava 2019, arXiv:1904.06031 (EvalNorm), who learn two
    shares by gradient descent; here one is measured and the variance follows from it. The traps: statistics of few
    samples are worse than old ones, and many crops of few photographs are still few samples.

    >>> net = nn.Sequential(nn.BatchNorm1d(2), nn.ReLU())
    >>> x = torch.randn(1003, 2)
    >>> result = recalibrate(net, x.split(100))
    >>> torch.allclose(net[0].running_mean, x.mean(0), atol=1e-6), torch.allclose(net[0].running_var, x.var(0))
    (True, True)
    >>> result.samples, result.undo()[0].running_mean
    (1003, tensor([0., 0.]))
    """
    together = Together(process_group, _NAME)
    _check_options(method, blend, upstream, tolerance, together)
    whole = unwrapped(model, _NAME)
    if method == "evalnorm":
        check_model(model, _NAME)
    check_closed(whole, _NAME)
    layers = remembering_layers(whole, _NAME)
    batches = Batches(loader, forward, steps, _NAME)
    if upstream == "running" and batches.once_only():
        raise TypeError(
            f"{_NAME}: upstream='running' reads the loader once for each generation of layers, and a "
            f"{type(loader).__name__} can be read only once; write list(loader), or upstream='batch'."
        )
    renewal = Renewal(layers, blend, together)
    with on_loan(whole):
        survey = Survey(whole, batches, Stop(tolerance, batches, together), _NAME)
        new = renewal.by_generations(survey) if upstream == "running" else renewal.at_once(survey)
    if not new:
        raise ValueError(f"{_NAME}: none of the {len(layers)} layers with running statistics was called.")
    count = sum(together.collect(survey.batches))
    twins = _evalnorms(new, layers, survey.batches) if method == "evalnorm" else {}
    rows = [
        row_of(name, layer, renewal.old[layer], new.get(layer), tolerance or SURE) for layer, name in layers.items()
    ]
    with ModelChange(whole, _NAME) as change:
        for layer, statistics in new.items():
            _write(change, renewal.old[layer], statistics, count, layers[layer])
            if layer in twins:
                change.replace(layer, twins[layer])
        result = Recalibrated(change, rows, count, tolerance or SURE)
        result.warn()  # if warnings are errors, the change is undone
    return result


def _evalnorms(
    new: dict[nn.Module, Statistics], layers: dict[nn.Module, str], batches: int
) -> dict[nn.Module, EvalNorm]:
    if batches < 2:
        raise ValueError(f"{_NAME}: method='evalnorm' compares batches, and the loader has a single one.")
    return {
        layer: evalnorm_of(layer, layers[layer], statistics.population.share_of_a_sample(), _NAME)
        for layer, statistics in new.items()
    }


def _write(change: ModelChange, old: Memory, new: Statistics, batches: int, name: str) -> None:
    prefix = f"{name}." if name else ""
    change.write(old.mean, new.mean, f"{prefix}running_mean")
    change.write(old.var, new.var, f"{prefix}running_var")
    if old.batches is not None and int(old.batches) < batches:
        change.write(old.batches, torch.full_like(old.batches, batches), f"{prefix}num_batches_tracked")


def _check_options(method: str, blend: float, upstream: str, tolerance: float | None, together: Together) -> None:
    for name, value, known in (("method", method, METHODS), ("upstream", upstream, UPSTREAM)):
        if value not in known:
            raise ValueError(f"{_NAME}: {name} must be {' or '.join(map(repr, known))}, received {value!r}.")
    check_number(_NAME, "blend", blend, 0.0, 1.0)
    if tolerance is not None:
        check_number(_NAME, "tolerance", tolerance, 0.0)
        if together:
            raise ValueError(f"{_NAME}: tolerance stops one process, and a group reads in step; give steps instead.")


def remembering_layers(model: nn.Module, caller: str) -> dict[nn.Module, str]:
    """The layers with running statistics by name; ValueError where there is none."""
    found = {m: name for m, name in watched_modules(model).items() if memory_of(m) is not None}
    if not found:
        raise ValueError(
            f"{caller}: {type(model).__name__} has no layer with running statistics (running_mean and running_var)."
        )
    return found
