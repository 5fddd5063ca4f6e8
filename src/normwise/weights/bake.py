"""Write normalized weights into plain ones."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import nn
from torch.nn.utils import parametrize

from ..core.model_change import ModelChange
from .baking import HOOKS, KINDS, PLAIN, Job, held_elsewhere, write
from .layers import StandardizedConv, chain_of


class Baked(NamedTuple):
    """One weight that `bake` wrote: its name in the model and the normalization that was baked into it."""

    name: str
    kind: str


def bake(model: nn.Module) -> list[Baked]:
    """Write every weight normalization of a model into plain weights, in place, and say which.

    The parametrizations `spectral_norm`, `weight_standardization`, `scaled_weight_standardization` and torch's own
    `spectral_norm` and `weight_norm` (also as older hooks) are removed; `WSConvNd` and `ScaledWSConvNd` become plain
    `torch.nn.ConvNd`. The weights are those of evaluation, computed by the same operations. So the outputs in
    evaluation stay the same bit for bit (eager; to rounding against a compiled model), and exported graphs have no
    trace of the normalization.

    Parameters, modules, hooks, training flags and ``requires_grad`` are not replaced; a shared module is
    baked once and stays shared. The gains of scaled weight standardization and weight norm are gone afterwards. To keep
    training with the normalization, bake a `copy.deepcopy`. Other models that share tensors with this one keep their
    values: the baked weights are in new memory, and a parameter that another model holds is replaced here only.

    Raises TypeError for anything but a module. Raises ValueError, with the model unchanged, where baking would alter
    something else: a weight tensor that several modules use, a weight that another parametrization changes as well, a
    subclass of our convolutions.

    >>> from normwise.weights import WSConv2d, spectral_norm
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
        users = _users(model)
        for job in jobs:
            _check_unshared(users, job)
        return _write_all(change, jobs)


def bake_within(change: ModelChange) -> list[Baked]:
    """`bake` as a part of a larger change; raises the same errors."""
    jobs, users = [], _users(change.model)
    for name, module in change.model.named_modules():
        try:
            found = list(_jobs(name, module))
            for job in found:
                _check_unshared(users, job)
        except ValueError:
            continue
        jobs += found
    return _write_all(change, jobs)


def _jobs(name: str, module: nn.Module) -> Iterator[Job]:
    """A module's tensors that can be baked; ValueError for one that must not be."""
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
        yield Job(module, key, prefix + key, [*chain.parameters(recurse=False), *chain.buffers(recurse=False)])
    for hook in module._forward_pre_hooks.values():
        if type(hook) in HOOKS:
            key: str = hook.name  # type: ignore[attr-defined]
            yield Job(module, key, prefix + key, [getattr(module, HOOKS[type(hook)][1].format(key))])
    if isinstance(module, StandardizedConv):
        if parametrize.type_before_parametrizations(module) not in PLAIN:
            raise ValueError(
                f"bake: {name or 'the model'} is a {type(module).__name__}, a subclass with behaviour of its own; "
                "give it a plain convolution with weight_standardization instead."
            )
        if "weight" not in parametrized:
            yield Job(module, "weight", f"{prefix}weight", [module.weight])  # type: ignore[list-item]


def _users(model: nn.Module) -> dict[int, list[str]]:
    """All names of each of the model's tensors, by its id."""
    users: dict[int, list[str]] = defaultdict(list)
    for owner_name, owner in model.named_modules():
        for key, tensor in (*owner._parameters.items(), *owner._buffers.items()):
            if tensor is not None:
                users[id(tensor)].append(_plain_name(f"{owner_name}.{key}" if owner_name else key))
    return users


def _check_unshared(users: dict[int, list[str]], job: Job) -> None:
    """A tensor with two users cannot hold the normalized value of one of them."""
    for names in (users[id(source)] for source in job.sources):
        if len(names) > 1:
            raise ValueError(
                f"bake: one tensor is shared by {' and '.join(names)}; writing one's normalized weight would change "
                "the other. Give each its own tensor first."
            )


def _plain_name(name: str) -> str:
    """The user's name of a tensor: ``0.weight`` for ``0.parametrizations.weight.original``."""
    head, found, tail = name.rpartition("parametrizations.")
    return head + tail.rpartition(".original")[0] if found and ".original" in tail else name


@torch.no_grad()
def _write_all(change: ModelChange, jobs: list[Job]) -> list[Baked]:
    elsewhere = held_elsewhere(change.model, [source for job in jobs for source in job.sources])
    return [Baked(job.name, " + ".join(write(change, job, elsewhere))) for job in jobs]
