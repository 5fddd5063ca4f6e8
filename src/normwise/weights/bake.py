"""Write normalized weights into plain ones."""

from __future__ import annotations

import gc
from collections import defaultdict
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
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
from .operator_norm import OperatorNorm
from .spectral_norm import SpectralNorm
from .standardization import ScaledWeightStandardization, WeightStandardization

KINDS: dict[type[nn.Module], str] = {
    SpectralNorm: "spectral norm",
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
#: torch's older way: a hook that computes the weight before each call, and the parameter that it keeps for that.
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


class Baked(NamedTuple):
    """One weight that `bake` wrote: its name in the model and what had normalized it."""

    name: str
    kind: str


class _Job(NamedTuple):
    """A weight to write: its module, what it is called there and in the model, and what it is computed from."""

    module: nn.Module
    key: str
    name: str
    sources: list[Tensor]


def bake(model: nn.Module) -> list[Baked]:
    """Write every weight normalization of a model into plain weights, in place, and say which.

    The parametrizations `spectral_norm`, `weight_standardization`, `scaled_weight_standardization` and torch's own
    `spectral_norm` and `weight_norm` (its older hooks too) are removed; `WSConvNd` and `ScaledWSConvNd` become plain
    `torch.nn.ConvNd`. The weights are those of evaluation, computed by the same operations, so the outputs in
    evaluation stay the same bit for bit (eager; to rounding against a compiled model), and exported graphs have no
    trace of the normalization.

    Parameters, modules, hooks, training flags and ``requires_grad`` stay the objects they are; a shared module is
    baked once and stays shared. The gains of scaled weight standardization and weight norm are gone afterwards. To keep
    training with the normalization, bake a `copy.deepcopy`. Other models keep their values, whatever they share with
    this one: the baked weights are in memory of their own, and a parameter that another model holds is left to it.

    Raises ValueError, with the model unchanged, where baking would alter something else: a weight tensor that several
    modules use, a weight that another parametrization changes as well, a subclass of our convolutions.

    >>> from normwise.weights import spectral_norm
    >>> model = nn.Sequential(WSConv2d(3, 4, 3), nn.ReLU(), spectral_norm(nn.Conv2d(4, 5, 3))).eval()
    >>> x = torch.randn(1, 3, 8, 8)
    >>> before = model(x)
    >>> for name, kind in bake(model):
    ...     print(name, "-", kind)
    0.weight - weight standardization
    2.weight - spectral norm
    >>> torch.equal(model(x), before)
    True
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"bake expects a module, received {type(model).__name__}.")
    with ModelChange(model, "bake") as change:
        jobs = [job for name, module in model.named_modules() for job in _jobs(name, module)]
        for job in jobs:
            _check_unshared(model, job)
        return _write_all(change, jobs)


def bake_within(change: ModelChange) -> list[Baked]:
    """`bake` as a part of a larger change; what `bake` refuses stays as it is."""
    jobs = []
    for name, module in change.model.named_modules():
        try:
            found = list(_jobs(name, module))
            for job in found:
                _check_unshared(change.model, job)
        except ValueError:
            continue
        jobs += found
    return _write_all(change, jobs)


def _jobs(name: str, module: nn.Module) -> Iterator[_Job]:
    """A module's tensors that are ours to bake; ValueError for what cannot be."""
    prefix = f"{name}." if name else ""
    parametrized = list(module.parametrizations) if parametrize.is_parametrized(module) else []  # type: ignore[arg-type]
    for key in parametrized:
        chain = chain_of(module, key)
        foreign = [type(p).__name__ for p in chain if type(p) not in KINDS]
        if len(foreign) == len(chain):
            continue
        if foreign:
            raise ValueError(
                f"bake: {prefix}{key} is also parametrized by {', '.join(foreign)}, which baking would remove; "
                "remove that parametrization first."
            )
        yield _Job(module, key, prefix + key, [*chain.parameters(recurse=False), *chain.buffers(recurse=False)])
    for hook in module._forward_pre_hooks.values():
        if type(hook) in HOOKS:
            key: str = hook.name  # type: ignore[attr-defined]
            yield _Job(module, key, prefix + key, [getattr(module, HOOKS[type(hook)][1].format(key))])
    if isinstance(module, StandardizedConv):
        if parametrize.type_before_parametrizations(module) not in PLAIN:
            raise ValueError(
                f"bake: {name or 'the model'} is a {type(module).__name__}, a subclass with behaviour of its own; "
                "give it a plain convolution with weight_standardization instead."
            )
        if "weight" not in parametrized:
            yield _Job(module, "weight", f"{prefix}weight", [module.weight])  # type: ignore[list-item]


def _check_unshared(model: nn.Module, job: _Job) -> None:
    """A tensor with two users cannot hold the normalized value of one of them."""
    users: dict[int, list[str]] = defaultdict(list)
    for owner_name, owner in model.named_modules():
        for key, tensor in (*owner._parameters.items(), *owner._buffers.items()):
            if tensor is not None:
                users[id(tensor)].append(_plain_name(f"{owner_name}.{key}" if owner_name else key))
    for names in (users[id(source)] for source in job.sources):
        if len(names) > 1:
            raise ValueError(
                f"bake: one tensor is shared by {' and '.join(names)}; writing one's normalized weight would change "
                "the other. Give each its own tensor first."
            )


def _plain_name(name: str) -> str:
    """``0.parametrizations.weight.original`` is ``0.weight`` to the user."""
    head, found, tail = name.rpartition("parametrizations.")
    return head + tail.rpartition(".original")[0] if found and ".original" in tail else name


@torch.no_grad()
def _write_all(change: ModelChange, jobs: list[_Job]) -> list[Baked]:
    elsewhere = _held_elsewhere(change.model, [source for job in jobs for source in job.sources])
    return [Baked(job.name, " + ".join(_write(change, job, elsewhere))) for job in jobs]


def _held_elsewhere(model: nn.Module, tensors: list[Tensor]) -> set[int]:
    """The ids of the tensors that a module outside of the model holds, too."""
    if not tensors:
        return set()
    ours, wanted = set(model.modules()), {id(tensor) for tensor in tensors}
    others = (m for m in gc.get_objects() if issubclass(type(m), nn.Module) and m not in ours)
    return {id(t) for m in others for t in vars(m).get("_parameters", {}).values()} & wanted


def _write(change: ModelChange, job: _Job, elsewhere: set[int]) -> list[str]:
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
    """The tensor with another value, or one of its kind where the tensor is another model's too."""
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
    """Take a tensor's parametrizations out.

    `parametrize.remove_parametrizations` deletes the property from the class, which deep copies of the module share:
    they would lose their weight.
    """
    kind = type(module)
    change.on_undo(lambda: setattr(module, "__class__", kind))
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
    """Write what torch's hook computes in evaluation, and take the hook and its tensors out."""
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
    """Out of the same dict, in which the handles of the others look for theirs."""
    before = dict(hooks)
    change.on_undo(lambda: (hooks.clear(), hooks.update(before)))
    for number in numbers:
        del hooks[number]


def _make_plain(change: ModelChange, conv: Any, elsewhere: set[int]) -> None:
    weight = _holding(change, conv.weight, conv.standardized(conv.weight), elsewhere)
    if weight is not conv.weight:
        change.set(conv, "weight", weight)
    for attribute in ("gain", "gamma", "eps"):
        if hasattr(conv, attribute):
            change.remove(conv, attribute)
    kind = type(conv)
    change.on_undo(lambda: setattr(conv, "__class__", kind))
    conv.__class__ = PLAIN[kind]
