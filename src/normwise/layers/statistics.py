"""Contexts for the running statistics of all layers of a model: do not update, pool updates, choose a bank."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from .running_layer import RunningLayer, check_bank


def running_layers(model: nn.Module) -> list[RunningLayer]:
    """The layers of this package in ``model`` that have running statistics, each once."""
    return [m for m in model.modules() if isinstance(m, RunningLayer)]


@contextmanager
def no_update(model: nn.Module) -> Iterator[int]:
    """Forward passes inside the block do not change the running statistics; everything else is as usual.

    For the extra passes of a training step: adversarial examples, a second view, a probe of the loss. The context's
    value is the number of layers that it affects, 0 for a model without running statistics.

    Raises TypeError for an object that is not a module, ValueError where only torch's layers have running statistics.

    >>> import torch, normwise as nw
    >>> layer = nw.BatchNorm1d(2)
    >>> with no_update(layer):
    ...     _ = layer(torch.randn(8, 2))
    >>> layer.num_batches_tracked
    tensor(0)
    """
    layers = _layers_of(model, "no_update")
    for layer in layers:
        layer.policy.paused += 1
    try:
        yield len(layers)
    finally:
        for layer in layers:
            layer.policy.paused -= 1


@contextmanager
def pool_updates(model: nn.Module) -> Iterator[int]:
    """The forward passes inside the block count as one batch for the running statistics.

    For gradient accumulation: the running statistics are updated once per optimizer step, by the exact pooled mean and
    variance of all micro-batches. Each micro-batch is still *normalized* by its own statistics. After an error nothing
    of the block is remembered. The context's value is the number of layers.

    Raises RuntimeError where a block is already open, and the errors of `no_update`.

    >>> import torch, normwise as nw
    >>> x, layer = torch.randn(8, 2), nw.BatchNorm1d(2, momentum=1.0)
    >>> with pool_updates(layer):
    ...     for micro in x.split(4):
    ...         _ = layer(micro)
    >>> torch.allclose(layer.running_var, x.var(0))
    True
    """
    layers = _layers_of(model, "pool_updates")
    if any(layer.policy.pending is not None for layer in layers):
        raise RuntimeError("pool_updates is already open for a layer of this model; blocks do not nest.")
    for layer in layers:
        layer.policy.pending = []
    try:
        yield len(layers)
    except BaseException:
        for layer in layers:
            layer.policy.pending = None
        raise
    for layer in layers:
        layer.commit_pending()


@contextmanager
def statistics_bank(model: nn.Module, name: str) -> Iterator[int]:
    """Inside the block the model's layers use, and update, the running statistics of the bank ``name``.

    For data of several domains: one network, one set of running statistics per domain. A bank starts like a fresh
    layer, belongs to the model's state_dict from its first use, and is created when a state_dict that has it is loaded.
    The context's value is the number of layers.

    Raises ValueError for a name that is empty or has dots, and the errors of `no_update`.

    >>> import torch, normwise as nw
    >>> layer = nw.BatchNorm1d(2, momentum=1.0)
    >>> with statistics_bank(layer, "night"):
    ...     _ = layer(torch.randn(8, 2) - 5)
    >>> layer.running_mean, bool((layer.banks["night"].running_mean < -4).all())
    (tensor([0., 0.]), True)
    """
    check_bank("statistics_bank", name)
    layers = _layers_of(model, "statistics_bank")
    before = [layer.bank for layer in layers]
    for layer in layers:
        layer.make_bank(name)
        layer.bank = name
    try:
        yield len(layers)
    finally:
        for layer, bank in zip(layers, before, strict=True):
            layer.bank = bank


def _layers_of(model: nn.Module, caller: str) -> list[RunningLayer]:
    """The layers to affect; empty for a model without running statistics, ValueError where only torch's have them."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"{caller} expects a module such as a network, received {type(model).__name__}.")
    layers = [layer for layer in running_layers(model) if layer.running_mean is not None]
    theirs = [m for m in model.modules() if isinstance(m, _NormBase) and m.running_mean is not None]
    if theirs and not layers:
        raise ValueError(
            f"{caller}: {type(model).__name__} has no layer of normwise with running statistics, only torch's; "
            "replace those by layers of normwise first."
        )
    return layers
