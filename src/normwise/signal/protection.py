"""A model on loan: its state is restored at the end of the block."""

from __future__ import annotations

import random
from collections import OrderedDict, deque
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from normwise.layers.batch_layer import BatchLayer
from normwise.layers.running_layer import RunningLayer

from .modules import is_scripted

# The class names of stochastic depth in this package, torchvision, timm and elsewhere.
STOCHASTIC_DEPTH = frozenset({"StochasticDepth", "DropPath"})
SKIP_GAINS = frozenset({"skip_gain", "skipinit_gain", "skipinit"})
CONTAINERS = (dict, OrderedDict, list, set, deque)


@contextmanager
def as_it_was(model: nn.Module) -> Iterator[None]:
    """Restores each module's attributes (modes, hooks, parameters, attributes set by `forward`) and each buffer.

    Inside the block buffers are copies; the originals stay untouched, so that a graph of an earlier forward pass stays
    valid for its backward pass.
    """
    with ExitStack() as stack:
        copies: dict[int, Tensor] = {}
        for module in model.modules():
            if is_scripted(module):
                stack.callback(module.train, module.training)
                continue
            stack.callback(_restore, vars(module), _snapshot(vars(module)))
            for name, buffer in module._buffers.items():
                if buffer is not None:
                    module._buffers[name] = copies.setdefault(id(buffer), buffer.detach().clone())
        for parameter in model.parameters():
            stack.callback(parameter.requires_grad_, parameter.requires_grad)
        yield


@contextmanager
def on_cpu(model: nn.Module) -> Iterator[None]:
    """Inside the block parameters and buffers are copies on the CPU: a prediction computes there, in fp64."""
    copies: dict[int, Tensor] = {}
    with ExitStack() as stack:
        for module in model.modules():
            stores: Any = () if is_scripted(module) else (module._parameters, module._buffers)
            for tensors in stores:
                away = {name: t for name, t in tensors.items() if t is not None and not t.is_cpu}
                stack.callback(tensors.update, away)
                tensors.update({name: copies.setdefault(id(t), _copy_on_cpu(t)) for name, t in away.items()})
        yield


def _copy_on_cpu(t: Tensor) -> Tensor:
    copy = t.detach().cpu()
    return nn.Parameter(copy, t.requires_grad) if isinstance(t, nn.Parameter) else copy


def _snapshot(attributes: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Each attribute with a copy of its value, one level deep."""
    return {
        name: (value, (value.copy() if value else ()) if type(value) in CONTAINERS else None)
        for name, value in attributes.items()
    }


def _restore(attributes: dict[str, Any], snapshot: dict[str, tuple[Any, Any]]) -> None:
    for value, content in snapshot.values():
        if content is not None and (value or content):
            value.clear()
            (value.extend if isinstance(value, (list, deque)) else value.update)(content)
    attributes.clear()
    attributes.update({name: value for name, (value, _) in snapshot.items()})


@contextmanager
def random_numbers_kept(devices: set[torch.device], seed: int | None = None) -> Iterator[None]:
    """Restores the caller's random number generators (torch, NumPy, Python); inside the block they may be seeded."""
    accelerators = {device for device in devices if device.type not in ("cpu", "meta")}
    python_state, numpy_state = random.getstate(), np.random.get_state()
    with ExitStack() as stack:
        stack.callback(random.setstate, python_state)
        stack.callback(np.random.set_state, numpy_state)
        for kind in {device.type for device in accelerators} or {"cpu"}:
            indices = {_index(device) for device in accelerators if device.type == kind}
            stack.enter_context(torch.random.fork_rng(indices, device_type="cuda" if kind == "cpu" else kind))
            for index in indices if seed is not None else ():
                with torch.accelerator.device_index(index):
                    torch.get_device_module(kind).manual_seed(seed)
        if seed is not None:
            # Not torch.manual_seed: it would also seed accelerators whose state is not kept.
            torch.default_generator.manual_seed(seed)
            np.random.seed(seed % 2**32)
            random.seed(seed)
        yield


def _index(accelerator: torch.device) -> int:
    """The index of a device; the current one if it has none."""
    return torch.accelerator.current_device_index() if accelerator.index is None else accelerator.index


def evaluate(model: nn.Module, *, batch_statistics: bool, stochastic_depth: bool) -> None:
    """Set evaluation mode, except for the requested layers. Only inside `as_it_was`.

    It sets the attribute `training` directly, because some models override `eval()` to do more.
    """
    for module in model.modules():
        if is_scripted(module):
            module.eval()
            continue
        module.training = stochastic_depth and type(module).__name__ in STOCHASTIC_DEPTH
        if batch_statistics and isinstance(module, nn.modules.batchnorm._NormBase):
            _measure_the_batch(module)


def _measure_the_batch(layer: nn.modules.batchnorm._NormBase) -> None:
    """Let a layer use the statistics of this process's batch, without updating its running statistics or waiting for
    other processes."""
    if isinstance(layer, RunningLayer):
        layer.training = True
        layer.policy = replace(layer.policy, paused=layer.policy.paused + 1)
        if isinstance(layer, BatchLayer):
            layer.process_group = None
    else:
        # Without running statistics torch's layers use batch statistics also in evaluation.
        layer.track_running_stats = False
        layer._buffers["running_mean"] = layer._buffers["running_var"] = None


def set_skip_gains(model: nn.Module, value: float) -> int:
    """Set every SkipInit gain; returns their number. Only inside `as_it_was`."""
    found = 0
    for module in model.modules():
        for name, parameter in module._parameters.items():
            is_gain = name in SKIP_GAINS or (type(module).__name__ == "SkipGain" and name == "gain")
            if is_gain and parameter is not None:
                module._parameters[name] = nn.Parameter(torch.full_like(parameter, value), parameter.requires_grad)
                found += 1
    return found
