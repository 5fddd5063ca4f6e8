"""The inputs of layers with constant channels: if the input is also constant, the layer is not dead."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..batches import Forward
from ..modules import module_name, tensors_in, watched_modules
from ..readings import Reading, TapReadings
from ..records import Tap, Trace

DEAD = 0.5
"""The inputs of a layer are measured from this share of constant channels on."""
NEARLY_CONSTANT = 1e-10
"""Variance over squared mean."""


def constant_inputs(model: nn.Module, trace: Trace, again: Callable[..., Trace], call: Forward) -> dict[str, float]:
    """For each layer with many constant channels, the share of constant channels in its input; 1 without any input.

    again: a function that traces the model once more; call: how it calls the model.
    """
    suspects = {tap.name: tap for tap in trace.layers if tap.dead_share >= DEAD}
    if not suspects:
        return {}
    inputs: dict[tuple[str, int], TapReadings] = {}
    calls: Counter[str] = Counter()

    def arrive(name: str, _module: nn.Module, args: Any, kwargs: Any) -> None:
        calls[name] += 1
        tap = suspects.get(name if calls[name] == 1 else f"{name}#{calls[name]}")
        if tap is not None:
            for place, x in enumerate(x for x in tensors_in([args, kwargs]) if x.numel()):
                _add(inputs, tap, place, _as_numbers(x, tap))

    def counted(model: nn.Module, batch: Any) -> Any:
        calls.clear()
        return call(model, batch)

    modules = {module_name(suspect) for suspect in suspects}
    with ExitStack() as stack:
        for module, name in watched_modules(model).items():
            if name in modules:
                hook = partial(arrive, name)
                stack.callback(module.register_forward_pre_hook(hook, with_kwargs=True).remove)
        again(forward=counted)
    shares: dict[str, float] = {}
    for (name, _), readings in inputs.items():
        shares[name] = min(shares.get(name, 1.0), _constant_share(readings.tap()))
    return {name: shares.get(name, 1.0) for name in suspects}


def _constant_share(tap: Tap) -> float:
    """The share of channels that are constant, or nearly so: a vanishing signal is useless before it is exactly 0."""
    return 1.0 if tap.variance < NEARLY_CONSTANT * tap.squared_mean else tap.dead_share


def _add(inputs: dict[tuple[str, int], TapReadings], tap: Tap, place: int, x: tuple[Tensor, int]) -> None:
    reading = Reading(*x, histogram=False)
    if (tap.name, place) in inputs:
        inputs[tap.name, place].add(reading)
    else:
        inputs[tap.name, place] = TapReadings(tap.name, "layer", tap.type, reading)


def _as_numbers(x: Tensor, tap: Tap) -> tuple[Tensor, int]:
    """The input with the channels of the layer's output; token numbers have one channel."""
    if not x.is_floating_point():
        return x.reshape(-1, 1).to(torch.get_default_dtype()), 1
    return x, tap.channel_axis if x.dim() == len(tap.shape) else x.dim() - 1
