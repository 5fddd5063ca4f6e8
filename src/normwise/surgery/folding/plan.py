"""Decide which normalizer is folded into which layer, and why others stay."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ...core.model_change import ModelChange
from . import layers, norms
from .layers import Refit
from .norms import ChannelMap
from .observation import LayerCall, ModuleCall, Observation, Signal
from .rest import ChannelPad, affine_of, does_nothing, rest_of

BEFORE, AFTER = "before", "after"


@dataclass(eq=False)
class Fold:
    """A layer's new tensors, and the calls of the normalizers folded into it: those behind it and in front of it.

    Both are in the order of folding, from the layer outwards. ``terms``: for each output channel the magnitude of the
    terms of the new bias.
    """

    layer: nn.Module
    call: LayerCall
    refit: Refit
    terms: Tensor
    behind: list[LayerCall] = field(default_factory=list)
    in_front: list[LayerCall] = field(default_factory=list)
    rests: dict[nn.Module, nn.Module] = field(default_factory=dict)

    @property
    def first(self) -> LayerCall:
        return self.in_front[-1] if self.in_front else self.call

    @property
    def last(self) -> LayerCall:
        return self.behind[-1] if self.behind else self.call

    @property
    def norms(self) -> list[nn.Module]:
        return [call.module for call in (*self.in_front, *self.behind)]

    def apply(self, change: ModelChange) -> None:
        """Write the tensors into the layer and replace the normalizers by what remains of them."""
        for name, value in self.refit.attributes(self.layer):
            change.set(self.layer, name, value)
        for norm, rest in self.rests.items():
            change.replace(norm, self.pad() if self.in_front and norm is self.first.module else rest)

    def pad(self) -> nn.Module:
        like: Any = self.layer.weight
        pads, values = self.refit.pads, self.refit.values
        return nn.Identity() if values is None else ChannelPad(pads, values.to(like.device, like.dtype))


@dataclass(eq=False)
class Lone:
    """A normalizer that becomes an affine layer in its place."""

    call: LayerCall
    found: ChannelMap

    @property
    def norms(self) -> list[nn.Module]:
        return [self.call.module]

    def apply(self, change: ModelChange) -> None:
        change.replace(self.call.module, self.affine())

    def affine(self) -> nn.Module:
        norm = self.call.module
        return affine_of(norm, self.found, norms.channel_axis(norm, len(self.call.shape)))


@dataclass
class Plan:
    folds: list[Fold | Lone]
    kept: dict[nn.Module, str]


class Planner:
    """Decides for each normalizer of one observed run."""

    def __init__(self, model: nn.Module, found: Observation) -> None:
        self._found = found
        users = Counter(id(p) for m in model.modules() for p in m._parameters.values() if p is not None)
        self._tied = {key for key, count in users.items() if count > 1}
        self._folds: dict[nn.Module, Fold] = {}
        self._into: dict[nn.Module, Fold] = {}
        self._maps: dict[nn.Module, ChannelMap] = {}
        self._rests: dict[nn.Module, nn.Module] = {}

    def plan(self, candidates: Sequence[nn.Module], sides: Sequence[str], standalone: bool) -> Plan:
        kept = {norm: reason for norm in candidates if (reason := self._unfit(norm))}
        fit = set(candidates) - kept.keys()
        open = [norm for norm in self._found.calls if norm in fit]  # in the order of their calls
        reasons: dict[nn.Module, list[str]] = {norm: [] for norm in open}
        passes = {BEFORE: (open, self._fold_behind), AFTER: (open[::-1], self._fold_in_front)}
        for side in (side for side in passes if side in sides):
            ordered, attempt = passes[side]
            for norm in ordered:
                reason = None if norm in self._into else attempt(norm)
                if reason:
                    reasons[norm].append(reason)
        lone: list[Fold | Lone] = []
        for norm in (norm for norm in open if norm not in self._into):
            call = self._found.calls[norm][0]
            if standalone and not isinstance(norms.arguments_left(norm, call), str) and not call.beside:
                lone.append(Lone(call, self._maps[norm]))
            else:
                kept[norm] = "; ".join(reasons[norm]) or "into= asks for no place where it could go"
        return Plan([*self._folds.values(), *lone], kept)

    def _unfit(self, norm: nn.Module) -> str | None:
        """Why a normalizer stays whatever its neighbours; if it need not, note its scale, shift and remaining parts."""
        reason = norms.why_not(norm) or self._use(norm)
        if reason:
            return reason
        call = self._found.calls[norm][0]
        if call.result is None or call.dtype is None:
            return "its input is not a single tensor"
        if call.result.dtype != call.dtype:
            return f"it changes the dtype from {call.dtype} to {call.result.dtype}"
        found = norms.channel_map(norm, call)
        if isinstance(found, str):
            return found
        arguments = norms.arguments_left(norm, call)
        if isinstance(arguments, str):
            return arguments
        self._maps[norm], self._rests[norm] = found, rest_of(norm, arguments)
        return None

    def _use(self, module: nn.Module) -> str | None:
        """Why the calls of a module do not allow a change of it; None if they do."""
        calls, readers = self._found.calls.get(module, []), self._found.readers.get(module)
        if not calls:
            return "the example never calls it"
        if len(calls) > 1:
            return f"it is called {len(calls)} times"
        return f"its tensors are also read by {readers[0]}" if readers else None

    def _fold_behind(self, norm: nn.Module) -> str | None:
        """Fold a normalizer into the layer before it, or return the reason why not."""
        call = self._found.calls[norm][0]
        source = call.source
        if source is None:
            return f"its input comes from {call.origin} and not from a convolution or linear layer"
        maker = source.maker
        if norms.is_norm(maker.module) and maker.module not in self._into:
            return f"its input comes from {maker.name}, which stays"
        if norms.is_norm(maker.module) and not does_nothing(self._rests[maker.module]):
            return f"an activation lies between {maker.name} and it"
        fold = self._into.get(maker.module)
        if fold is not None and maker not in fold.behind:
            return f"its input comes from {maker.name}, which goes into the layer after it"
        layer = maker.module if fold is None else fold.layer
        reason = self._why_not_alone(source, call) or self._why_not_into(layer, call, source.shape, source.dtype)
        if reason:
            return reason
        found = self._maps[norm]
        fold = self._folds.get(layer) or self._new_fold(layer)
        refit = layers.behind(layer, fold.refit, found.scale, found.shift)
        terms = fold.terms * found.scale.abs() + found.terms
        return self._fits(fold, refit) or self._take(fold, call, fold.behind, refit, terms)

    def _fold_in_front(self, norm: nn.Module) -> str | None:
        """Fold a normalizer into the layer after it, or return the reason why not."""
        call = self._found.calls[norm][0]
        signal: Signal = call.result  # type: ignore[assignment]  # `_unfit` has looked
        if not signal.layers:
            return f"its output goes to {signal.others[0] if signal.others else 'no layer'}"
        reader = signal.layers[0]
        if not does_nothing(self._rests[norm]):
            return f"an activation lies between it and {reader.name}"
        if norms.is_norm(reader.module) and (
            reader.module not in self._into or reader not in self._into[reader.module].in_front
        ):
            return f"its output goes to {reader.name}, which stays"
        fold = self._into.get(reader.module)
        layer = reader.module if fold is None else fold.layer
        reason = self._why_not_alone(signal, reader) or self._why_not_into(layer, call, signal.shape, signal.dtype)
        if reason:
            return reason
        found = self._maps[norm]
        fold = self._folds.get(layer) or self._new_fold(layer)
        refit = layers.in_front(layer, fold.refit, found.scale, found.shift)
        if isinstance(refit, str):
            return refit
        sizes = fold.refit._replace(weight=fold.refit.weight.abs(), bias=fold.terms)
        terms = layers.with_shift(layer, sizes, found.terms)
        return self._fits(fold, refit) or self._take(fold, call, fold.in_front, refit, terms)

    def _why_not_alone(self, signal: Signal, reader: LayerCall) -> str | None:
        """Why a signal must not change: it has other readers than ``reader``; None if it has none."""
        passing: Sequence[ModuleCall] = reader.parents
        others = [*signal.others, *(c.name for c in signal.layers if c is not reader)]
        others += [call.name for call in signal.takers if call not in passing]
        return f"the output of {signal.maker.name} is also read by {others[0]}" if others else None

    def _why_not_into(
        self, layer: nn.Module, call: LayerCall, shape: tuple[int, ...], dtype: torch.dtype
    ) -> str | None:
        name = self._found.calls[layer][0].name
        if any(id(p) in self._tied for p in layer.parameters(recurse=False)):
            return f"{name} shares its parameters with another module"
        reason = layers.why_not(layer) or self._use(layer)
        if reason:
            return f"{name}: {reason}"
        if dtype != call.dtype:
            return f"{name} and it compute in different dtypes"
        axis = layers.channel_axis(layer, len(shape))
        if axis != norms.channel_axis(call.module, len(shape)):
            return f"{name} has its channels in dimension {axis} of {list(shape)}, it normalizes another"
        return None

    def _new_fold(self, layer: nn.Module) -> Fold:
        weight, bias = layers.tensors_of(layer)
        return Fold(layer, self._found.calls[layer][0], Refit(weight, bias), bias.abs())

    def _fits(self, fold: Fold, refit: Refit) -> str | None:
        dtype = fold.layer.weight.dtype  # type: ignore[union-attr]
        tensors = [t for t in (refit.weight, refit.bias, refit.values) if t is not None]
        if all(bool(torch.isfinite(t.to(dtype)).all()) for t in tensors):  # type: ignore[arg-type]
            return None
        return f"the folded weight would not be finite in {dtype}"

    def _take(self, fold: Fold, call: LayerCall, side: list[LayerCall], refit: Refit, terms: Tensor) -> None:
        side.append(call)
        fold.refit, fold.terms = refit, terms
        fold.rests[call.module] = self._rests[call.module]
        self._folds[fold.layer] = self._into[call.module] = fold
