"""One weight written out: the known normalizations of weights, and how each is removed from its module."""

from __future__ import annotations

import gc
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.nn.utils import parametrizations as torch_parametrizations
from torch.nn.utils import parametrize
from torch.nn.utils.spectral_norm import SpectralNorm as TorchSpectralNorm
from torch.nn.utils.spectral_norm import SpectralNormLoadStateDictPreHook, SpectralNormStateDictHook
from torch.nn.utils.weight_norm import WeightNorm

from ..core.model_change import ModelChange
from .convolutions import (
    ScaledWSConv1d,
    ScaledWSConv2d,
    ScaledWSConv3d,
    WSConv1d,
    WSConv2d,
    WSConv3d,
)
from .effective import parametrized_value
from .layers import StandardizedConv, chain_of
from .old_names import forget_old_names
from .operator_norm import OperatorNorm
from .spectral_norm import SpectralNorm
from .standardization import ScaledWeightStandardization, WeightStandardization
from .vector_norm import VectorNorm

KINDS: dict[type[nn.Module], str] = {
    SpectralNorm: "spectral norm",
    VectorNorm: "spectral norm",
    OperatorNorm: "operator norm",
    WeightStandardization: "weight standardization",
    ScaledWeightStandardization: "scaled weight standardization",
    torch_parametrizations._SpectralNorm: "torch spectral norm",
    torch_parametrizations._WeightNorm: "torch weight norm",
    WSConv1d: "weight standardization",
    WSConv2d: "weight standardization",
    WSConv3d: "weight standardization",
    ScaledWSConv1d: "scaled weight standardization",
    ScaledWSConv2d: "scaled weight standardization",
    ScaledWSConv3d: "scaled weight standardization",
}
#: torch's older way: a hook that computes the weight before each call, and the name of the parameter behind it.
HOOKS: dict[type, tuple[str, str]] = {
    WeightNorm: ("torch weight norm", "{}_v"),
    TorchSpectralNorm: ("torch spectral norm", "{}_orig"),
}
PLAIN: dict[type[nn.Module], type[nn.Module]] = {
    WSConv1d: nn.Conv1d,
    WSConv2d: nn.Conv2d,
    WSConv3d: nn.Conv3d,
    ScaledWSConv1d: nn.Conv1d,
    ScaledWSConv2d: nn.Conv2d,
    ScaledWSConv3d: nn.Conv3d,
}


class Job(NamedTuple):
    """A weight to write: its module, its names there and in the model, and the tensors from which it is computed."""

    module: nn.Module
    key: str
    name: str
    sources: list[Tensor]


def held_elsewhere(model: nn.Module, tensors: list[Tensor]) -> set[int]:
    """The ids of those tensors that a module outside of the model holds, too."""
    if not tensors:
        return set()
    ours, wanted = set(model.modules()), {id(tensor) for tensor in tensors}
    others = (m for m in gc.get_objects() if issubclass(type(m), nn.Module) and m not in ours)
    return {id(t) for m in others for t in vars(m).get("_parameters", {}).values()} & wanted


def write(change: ModelChange, job: Job, elsewhere: set[int]) -> list[str]:
    """Write the normalized value into a plain tensor, remove the normalizations, and return their names."""
    module, key = job.module, job.key
    kinds = []
    if parametrize.is_parametrized(module, key):
        kinds += [KINDS[type(p)] for p in chain_of(module, key)]
        value = parametrized_value(module, key)
        last = list(chain_of(module, key)._parameters.values() or chain_of(module, key)._buffers.values())[-1]
        _unparametrize(change, module, key)
        _register(change, module, key, _holding(change, last, value, elsewhere))  # type: ignore[arg-type]
    for number, hook in list(module._forward_pre_hooks.items()):
        if type(hook) in HOOKS and hook.name == key:  # type: ignore[attr-defined]
            kinds.append(HOOKS[type(hook)][0])
            _unhook(change, module, number, hook, elsewhere)
    if isinstance(module, StandardizedConv) and key == "weight":
        kinds.append(KINDS[parametrize.type_before_parametrizations(module)])
        _make_plain(change, module, elsewhere)
    return kinds


def _holding(change: ModelChange, tensor: Tensor, value: Tensor, elsewhere: set[int]) -> Tensor:
    """The tensor with a new value, or a new tensor of the same class if another model holds this one."""
    if id(tensor) in elsewhere:
        return nn.Parameter(value.detach().clone(), tensor.requires_grad)
    change.move(tensor, value)
    return tensor


def _register(change: ModelChange, module: nn.Module, key: str, tensor: Tensor) -> None:
    if isinstance(tensor, nn.Parameter):
        change.set(module, key, tensor)
    else:
        change.on_undo(lambda: module._buffers.pop(key, None))
        module.register_buffer(key, tensor)


def _unparametrize(change: ModelChange, module: nn.Module, key: str) -> None:
    """Remove the parametrizations of a tensor.

    `parametrize.remove_parametrizations` would delete the property from the class, which deep copies of the module
    share: they would lose their weight.
    """
    module_class, hooks = type(module), dict(module._load_state_dict_pre_hooks)
    change.on_undo(lambda: setattr(module, "__class__", module_class))
    change.on_undo(lambda: module._load_state_dict_pre_hooks.update(hooks))
    forget_old_names(module, key)
    others = [name for name in module.parametrizations if name != key]  # type: ignore[union-attr]
    module.__class__ = parametrize.type_before_parametrizations(module)
    if not others:
        change.remove(module, "parametrizations")
        return
    change.remove(module.parametrizations, key)  # type: ignore[arg-type]
    parametrize._inject_new_class(module)
    for other in others:
        parametrize._inject_property(module, other)


def _unhook(change: ModelChange, module: nn.Module, number: int, hook: Any, elsewhere: set[int]) -> None:
    """Write the value that torch's hook computes in evaluation, and remove the hook and its tensors."""
    key = hook.name
    if isinstance(hook, WeightNorm):
        value = hook.compute_weight(module)
    else:
        value = hook.compute_weight(module, do_power_iteration=False)
    kept = getattr(module, HOOKS[type(hook)][1].format(key))
    _drop(change, module._forward_pre_hooks, [number])
    for hooks, kind in (
        (module._state_dict_hooks, SpectralNormStateDictHook),
        (module._load_state_dict_pre_hooks, SpectralNormLoadStateDictPreHook),
    ):
        of_it = [n for n, h in hooks.items() if isinstance(inner := getattr(h, "hook", h), kind) and inner.fn is hook]
        _drop(change, hooks, of_it)
    for suffix in ("", "_g", "_u", "_v", "_orig"):
        if any(key + suffix in store for store in (module._parameters, module._buffers, vars(module))):
            change.remove(module, key + suffix)
    change.set(module, key, _holding(change, kept, value, elsewhere))


def _drop(change: ModelChange, hooks: dict[int, Any], numbers: list[int]) -> None:
    """Remove entries from the same dict, since the handles of other hooks look for theirs in it."""
    before = dict(hooks)
    change.on_undo(lambda: (hooks.clear(), hooks.update(before)))
    for number in numbers:
        del hooks[number]


def _make_plain(change: ModelChange, conv: Any, elsewhere: set[int]) -> None:
    """Turn a standardizing convolution into torch's plain one."""
    weight = _holding(change, conv.weight, conv.standardized(conv.weight), elsewhere)
    if weight is not conv.weight:
        change.set(conv, "weight", weight)
    for attribute in ("gain", "gamma", "eps"):
        if hasattr(conv, attribute):
            change.remove(conv, attribute)
    module_class = type(conv)
    change.on_undo(lambda: setattr(conv, "__class__", module_class))
    conv.__class__ = PLAIN[module_class]
