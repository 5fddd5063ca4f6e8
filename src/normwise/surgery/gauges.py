"""Measure the inputs of layers while a model runs."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..core.moments import Moments
from ..layers.remembering import memory_of, remembers_instances
from ..layers.running_layer import RunningLayer
from ..operations.measure import measure
from .hooks import hooked
from .population import InstancePopulation, Population

Hear = Callable[[nn.Module, Moments], None]


def population_for(layer: nn.Module) -> Population:
    return InstancePopulation() if remembers_instances(layer) else Population()


@contextmanager
def listening(layers: Mapping[nn.Module, str], hear: Hear, caller: str) -> Iterator[None]:
    """Call ``hear(layer, moments of its input)`` before each of the layers runs.

    For a layer of this package only the positions within its ``mask`` or ``lengths`` count. It runs after other hooks
    that change the input.
    """

    def hook(layer: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        x, mask = _input_of(layer, arguments, named, f"{caller}: {layers[layer]}")
        if x is not None:
            hear(layer, measure(x, mask))

    with hooked([layer.register_forward_pre_hook(hook, with_kwargs=True) for layer in layers]):
        yield


def _input_of(
    layer: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any], caller: str
) -> tuple[Tensor | None, Tensor | None]:
    """The input ``[N, C, *space]`` and its mask; None for a call that the layer repeats with another shape."""
    given = inspect.signature(layer.forward).bind_partial(*arguments, **named).arguments
    x = next((value for value in given.values() if isinstance(value, Tensor)), None)
    if x is None:
        raise TypeError(f"{caller} is called without a tensor.")
    if x.is_quantized:
        raise TypeError(f"{caller} is given quantized values; pass the model from before quantization.")
    mask = None
    if isinstance(layer, RunningLayer) and (given.get("mask") is not None or given.get("lengths") is not None):
        mask = layer._mask(x, given.get("mask"), given.get("lengths"))
    if remembers_instances(layer) and x.dim() == layer._get_no_batch_dim():  # type: ignore[operator]
        return (None, None) if isinstance(layer, RunningLayer) else (x.unsqueeze(0), None)
    memory = memory_of(layer)
    channels = None if memory is None else memory.mean.numel()
    if x.dim() < 2 or x.shape[1] != channels:
        raise ValueError(f"{caller} remembers {channels} channels in dimension 1 and is given {list(x.shape)}.")
    return x, mask


@torch.no_grad()
def remember(layer: nn.Module, mean: Tensor, var: Tensor) -> None:
    """Write running statistics into the layer."""
    memory = memory_of(layer)
    if memory is not None:
        memory.mean.copy_(mean)
        memory.var.copy_(var)
