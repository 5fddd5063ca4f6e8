"""A user's layer in fp64, called many times, and restored afterwards."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..layers.batch_layer import BatchLayer
from ..signal.protection import as_it_was, random_numbers_kept

#: The relative change of parameters: a gate that starts at exactly 0 or 1 would hide a statistic.
AWAY = 0.1
#: Modules whose hooks are part of a layer's computation: the older weight norm and spectral norm.
_OF_TORCH = "torch.nn.utils"
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


@contextmanager
def in_double(layer: nn.Module, away: float, device: torch.device) -> Iterator[Callable[[float], None]]:
    """The layer with copies of its tensors in fp64, without hooks and processes, `undisturbed`.

    Calling the result with 1.0 or -1.0 restores the buffers, and changes the parameters by ``away``, up or down, by one
    rule, so that equal ones stay equal.
    """
    with as_it_was(layer), undisturbed(device):
        moved: list[tuple[dict[str, Any], str, dict[float, nn.Parameter]]] = []
        copies: dict[int, dict[float, nn.Parameter]] = {}
        kept: list[tuple[dict[str, Any], str, Tensor]] = []
        for module in layer.modules():
            _without_hooks(module)
            if isinstance(module, BatchLayer):
                module.process_group = None
            for name, parameter in module._parameters.items():
                if parameter is not None:
                    both = copies.setdefault(
                        id(parameter), {sign: _moved(parameter, sign * away) for sign in (1.0, -1.0)}
                    )
                    moved.append((module._parameters, name, both))
            for name, buffer in module._buffers.items():
                if buffer is not None:
                    kept.append((module._buffers, name, _double(buffer)))
            for name, value in vars(module).items():
                if isinstance(value, Tensor):
                    vars(module)[name] = _double(value)

        def renew(sign: float) -> None:
            for store, name, both in moved:
                store[name] = both[sign]
            for store, name, value in kept:
                store[name] = value.clone()

        yield renew


@contextmanager
def undisturbed(device: torch.device) -> Iterator[None]:
    """With gradients on, whatever the caller's setting, and without an effect on the caller's random numbers."""
    with random_numbers_kept({device}, seed=0), torch.inference_mode(False), torch.enable_grad():
        yield


def _without_hooks(module: nn.Module) -> None:
    for kind in _HOOKS:
        hooks = getattr(module, kind, None)
        for key in [k for k, hook in (hooks or {}).items() if not type(hook).__module__.startswith(_OF_TORCH)]:
            del hooks[key]  # type: ignore[index]


def _double(t: Tensor) -> Tensor:
    return t.detach().clone().double() if t.is_floating_point() else t.detach().clone()


def _moved(parameter: nn.Parameter, away: float) -> nn.Parameter:
    value = _double(parameter)
    if value.is_floating_point():
        value += away * (1 + value.abs())
    return nn.Parameter(value, requires_grad=False)
