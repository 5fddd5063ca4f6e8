"""The layer that replaces a normalizer: its class, its groups, and the values copied from the old one."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ..core.numbers import check_whole
from ..layers import Norm, activates, make_norm
from ..layers._conditions import ConditionTables
from ..layers._shared import FusedActivation
from ..layers.evo_norm import EvoNormB0
from ..layers.ibn import IBN
from ..layers.remembering import memory_of
from ..layers.running_layer import RunningLayer
from ..layers.zero_centered import stored
from .freezing import is_frozen
from .given import home_of_forward
from .starts import Affine, data_free, old_affine

_FAMILIES = (nn.modules.batchnorm._NormBase, nn.GroupNorm)
#: Classes with a known forward: a normalizer, perhaps followed by dropout and activation.
_KNOWN = ("torch.", "torchvision.ops.", "timm.", "detectron2.layers.batch_norm", "normwise.layers.")
_MOST_GROUPS, _LEAST_CHANNELS = 32, 8
_CALLER = "swap"


@dataclass
class Successor:
    """A new layer, and notes for the report."""

    layer: nn.Module
    notes: list[str] = field(default_factory=list)


def is_normalizer(module: nn.Module) -> bool:
    """Whether `swap` can replace a module: any BatchNorm, InstanceNorm or GroupNorm."""
    return isinstance(module, _FAMILIES) or memory_of(module) is not None


def why_kept(old: nn.Module) -> str | None:
    """Why a normalizer cannot be swapped; None if it can."""
    layer_class = parametrize.type_before_parametrizations(old)
    if isinstance(old, ConditionTables):
        return "takes a condition besides x"
    if isinstance(old, EvoNormB0):
        return "is its own activation, which the new layer would lack"
    home = home_of_forward(old)
    if home is None or not home.__module__.startswith(_KNOWN):
        return f"{layer_class.__name__} has a forward of its own, which would be lost"
    if parametrize.is_parametrized(old):
        return "its parameters are parametrized"
    return None


def channels_of(old: nn.Module) -> int:
    memory = memory_of(old)
    if memory is not None:
        return memory.mean.numel()
    return old.num_channels if isinstance(old, nn.GroupNorm) else old.num_features  # type: ignore[return-value]


def groups_for(channels: int) -> int:
    """The divisor of the channels nearest to 32 with at least 8 channels in a group; 1 if there is none.

    Of two that are equally near it is the smaller.

    >>> [groups_for(c) for c in (3, 16, 24, 64, 96, 320, 1280)]
    [1, 2, 3, 8, 12, 32, 32]
    """
    divisors = [g for g in range(1, channels // _LEAST_CHANNELS + 1) if channels % g == 0]
    return min(divisors, key=lambda g: abs(g - _MOST_GROUPS), default=1)


class Maker:
    """Builds the successors for one swap; the arguments are checked once."""

    def __init__(self, norm: Norm, groups: int | str, channels_per_group: int | None, start: str) -> None:
        self._norm, self._groups, self._size, self._start = norm, groups, channels_per_group, start
        self._grouped = isinstance(norm, str) and norm in ("group", "evo-s0")
        if channels_per_group is not None:
            check_whole(_CALLER, "channels_per_group", channels_per_group, 1)
        if groups != "auto":
            if isinstance(groups, str):
                raise ValueError(f"{_CALLER}: groups must be 'auto' or a number, received {groups!r}.")
            check_whole(_CALLER, "groups", groups, 1)
        given = [channels_per_group is not None, groups != "auto"]
        if (any(given) and not self._grouped) or all(given):
            raise ValueError(
                f"{_CALLER}: groups and channels_per_group go with norm='group' or 'evo-s0', one of them; received "
                f"norm={norm!r}, groups={groups!r}, channels_per_group={channels_per_group!r}."
            )

    def make(self, old: nn.Module, name: str, rank: int, copies: dict[int, Tensor], tied: bool) -> Successor:
        """The successor of ``old``, which is not changed; ``copies`` keep tied parameters tied."""
        channels = channels_of(old)
        if rank == 0 and self._norm == "instance":
            raise ValueError(
                f"{_CALLER}: {name} has features [N, C] as input, with a single value per pool of InstanceNorm; leave "
                "it out by where=."
            )
        made = Successor(make_norm(self._with_groups(channels, name), channels, max(rank, 1)))
        self._dress(made, old)
        self._fill(made, old, channels, copies, tied)
        return self._with_tail(made, old)

    @property
    def rule(self) -> str | None:
        """The rule by which groups are chosen, in words."""
        if not self._grouped:
            return None
        if self._size is not None:
            return f"{self._size} channels in each"
        if self._groups != "auto":
            return f"{self._groups}"
        return "the divisor of the channels nearest to 32 that leaves at least 8 in each, 1 if none does"

    def _with_groups(self, channels: int, name: str) -> Norm:
        if not self._grouped:
            return self._norm
        groups, given = self._groups, f"groups={self._groups!r}"
        if self._size is not None:
            groups, given = channels // self._size, f"channels_per_group={self._size}"
            if channels % self._size:
                groups = 0
        elif groups == "auto":
            groups = groups_for(channels)
        if not groups or channels % int(groups):
            raise ValueError(
                f"{_CALLER}: {name} has {channels} channels, which do not divide by {given}; leave it out by where=, "
                "or write groups='auto'."
            )
        return f"{self._norm}:{groups}"

    def _dress(self, made: Successor, old: nn.Module) -> None:
        """Set eps, momentum and the fused activation of the new layer."""
        new, eps = made.layer, getattr(old, "eps", None)
        for part in (new.IN, new.BN) if isinstance(new, IBN) else (new,):
            if isinstance(eps, float) and isinstance(getattr(part, "eps", None), float):
                part.eps = eps  # type: ignore[assignment]
            if hasattr(part, "momentum") and hasattr(old, "momentum"):
                part.momentum = old.momentum
            if isinstance(part, RunningLayer) and is_frozen(old):
                part.policy.frozen = True
        if activates(new):
            made.notes.append("is its own activation; an activation behind it is kept")
        activation = old.activation if isinstance(old, FusedActivation) else None
        if activation is not None:
            if not isinstance(new, FusedActivation) or activates(new):
                made.notes.append(f"does not have the fused activation {activation!r}")
            else:
                new._set_activation(activation)

    def _fill(self, made: Successor, old: nn.Module, channels: int, copies: dict[int, Tensor], tied: bool) -> None:
        """Set γ, β and running statistics according to ``start``."""
        new, affine = made.layer, None
        if isinstance(new, IBN):
            _fill_parts(new, old, channels, self._start)
            return
        if self._start != "copy" and memory_of(new) is None:
            affine = data_free(old, new, channels)
            if affine is None and not isinstance(new, nn.Identity):
                made.notes.append("γ and β copied: no data-free start is known")
            elif affine is not None and tied:
                affine, _ = None, made.notes.append("γ and β copied: they are tied to another layer's")
        if affine is None:
            _copy(made, old, copies)
        else:
            _write(made, old, affine)
        _remember(made, old)

    def _with_tail(self, made: Successor, old: nn.Module) -> Successor:
        """Put the dropout and activation of the old layer (timm's have some) behind the new one."""
        drop, act = getattr(old, "drop", None), getattr(old, "act", None)
        if isinstance(drop, nn.Module) and isinstance(act, nn.Module):
            behind = nn.Identity() if activates(made.layer) else act
            made.layer = nn.Sequential(OrderedDict(norm=made.layer, drop=drop, act=behind))
            made.notes.append("its parameters are named norm.* now")
        return made


@torch.no_grad()
def _fill_parts(new: IBN, old: nn.Module, channels: int, start: str) -> None:
    """For IBN-a: the part for BatchNorm continues from the old layer, that for InstanceNorm starts like
    InstanceNorm."""
    kept, first = old_affine(old, channels), new.first
    begun = kept if start == "copy" else data_free(old, nn.InstanceNorm1d(channels, new.IN.eps), channels) or kept
    for part, affine, of in ((new.IN, begun, slice(None, first)), (new.BN, kept, slice(first, None))):
        part.weight.copy_(affine.weight[of])
        part.bias.copy_(affine.bias[of])
    ours, theirs = memory_of(new.BN), memory_of(old)
    if ours is None or theirs is None:
        return
    for mine, value in zip(ours, theirs, strict=True):
        if mine is not None and value is not None:
            mine.copy_(value[first:] if value.dim() else value)


def _copy(made: Successor, old: nn.Module, copies: dict[int, Tensor]) -> None:
    """Copy γ and β; if the old layer has none, they are removed from the new one where it allows that."""
    new = made.layer
    lacking = [name for name in ("weight", "bias") if getattr(old, name, None) is None]
    if isinstance(new, _FAMILIES):
        for name in lacking:
            new.register_parameter(name, None)
        new.affine = "weight" not in lacking
    own = {name for name in ("weight", "bias") if getattr(new, name, None) is not None}
    dropped = [symbol for name, symbol in (("weight", "γ"), ("bias", "β")) if name not in {*own, *lacking}]
    if dropped:
        made.notes.append(f"{' and '.join(dropped)} dropped: the new layer has none")
    if isinstance(new, nn.Identity):
        made.notes.append("activations in place became ordinary ones")
    for name in own - set(lacking):
        theirs = getattr(old, name)
        if theirs.shape != getattr(new, name).shape:
            made.notes.append(f"{name} not copied: another shape")
            continue
        if name == "weight" and getattr(new, "zero_centered", False):
            new.register_parameter(name, nn.Parameter(stored(new, theirs.detach()), theirs.requires_grad))
        elif isinstance(theirs, nn.Parameter):
            copies.setdefault(id(theirs), nn.Parameter(theirs.detach().clone(), theirs.requires_grad))
            new.register_parameter(name, copies[id(theirs)])  # type: ignore[arg-type]
        else:
            new.register_parameter(name, nn.Parameter(theirs.detach().clone(), requires_grad=False))


@torch.no_grad()
def _write(made: Successor, old: nn.Module, affine: Affine) -> None:
    new = made.layer
    for name, symbol, value in (("weight", "γ", affine.weight), ("bias", "β", affine.bias)):
        parameter = getattr(new, name, None)
        if parameter is None:
            made.notes.append(f"{symbol} dropped: the new layer has none")
            continue
        theirs = getattr(old, name, None)
        trained = theirs is None or theirs.requires_grad
        value = stored(new, value) if name == "weight" else value
        new.register_parameter(name, nn.Parameter(value.to(parameter if theirs is None else theirs), trained))
        if theirs is None:
            made.notes.append(f"{symbol} added: the start needs it")


@torch.no_grad()
def _remember(made: Successor, old: nn.Module) -> None:
    ours, theirs = memory_of(made.layer), memory_of(old)
    if ours is None:
        return
    if theirs is None:
        made.notes.append("running statistics of a fresh layer: call recalibrate")
        return
    for mine, value in zip(ours, theirs, strict=True):
        if mine is not None and value is not None:
            mine.copy_(value)
