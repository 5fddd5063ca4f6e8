"""Remove the normalizers of a model: each is replaced by a scale and a shift of each channel."""

from __future__ import annotations

import inspect
from collections import OrderedDict
from typing import Any, NamedTuple

import torch
from torch import nn

from ...core.activations import MODULES
from ...core.model_change import ModelChange
from ...core.module_tree import module_tree
from ...layers._shared import FusedActivation
from ...signal.diagnosis.sites import NORMALIZER_CLASSES
from ...signal.prediction.gaussian import Signal
from ...signal.prediction.modules import RULES
from ...signal.prediction.options import Options
from ...signal.protection import evaluate
from ..folding import norms
from ..folding.rest import ChannelAffine, Epilogue
from ..folding.runs import on_example
from ..given import home_of_forward
from ..successors import channels_of, is_normalizer, why_kept

CALLER = "normalizer_free"
#: Normalizers over the last dimension; classes named ``...2d`` normalize over dimension 1.
_ROWS = (nn.LayerNorm, nn.RMSNorm)
_OVER_CHANNELS = "2d"


def _affine(module: ChannelAffine, options: Options, x: Signal) -> Signal:  # noqa: ARG001 as every rule
    weight, bias = (t.detach().cpu().double() for t in (module.weight, module.bias))
    return x.along(module.axis).scaled(weight, bias)


RULES[ChannelAffine] = _affine


class Opening(NamedTuple):
    """The place of a removed normalizer: its name, the normalizer, and the module that replaced it."""

    name: str
    norm: nn.Module
    affine: ChannelAffine


def take_out(change: ModelChange, example: Any) -> list[Opening]:
    """Replace every normalizer; its activation, dropout and residual stay.

    Raises ValueError if there is none, or, with its name, for the first that cannot be removed.
    """
    model = change.model
    found = {module: node.name for module, node in module_tree(model).items() if _normalizes(module)}
    if not found:
        raise ValueError(f"{CALLER}: {type(model).__name__} has no normalizer to remove; pass a net that has some.")
    for norm, name in found.items():
        reason = _why_not(norm)
        if reason:
            raise ValueError(f"{CALLER}: {name or 'the model'} ({type(norm).__name__}) {reason}.")
    arguments = _arguments_seen(model, found, example)
    openings = []
    for norm, name in found.items():
        affine = _affine_for(norm)
        change.replace(norm, _with_rest(norm, affine, arguments[norm]))
        openings.append(Opening(name, norm, affine))
    return openings


def _normalizes(module: nn.Module) -> bool:
    return isinstance(module, NORMALIZER_CLASSES) or norms.is_norm(module) or is_normalizer(module)


def _why_not(norm: nn.Module) -> str | None:
    if not (is_normalizer(norm) or norms.is_norm(norm) or isinstance(norm, _ROWS)):
        return "is its own activation or acts on other statistics than the mean and the variance"
    if isinstance(norm, _ROWS) and len(norm.normalized_shape) != 1:  # type: ignore[arg-type]
        return f"normalizes over several dimensions, {list(norm.normalized_shape)}"  # type: ignore[call-overload]
    home = home_of_forward(norm)
    if isinstance(norm, nn.LayerNorm) and home is not None and home.__name__ == f"LayerNorm{_OVER_CHANNELS}":
        return None
    return why_kept(norm)


def _affine_for(norm: nn.Module) -> ChannelAffine:
    rows = isinstance(norm, _ROWS)
    channels: int = norm.normalized_shape[0] if rows else channels_of(norm)  # type: ignore[index, assignment]
    axis = -1 if rows and not type(norm).__name__.endswith(_OVER_CHANNELS) else 1
    trained = any(p.requires_grad for p in norm.parameters(recurse=False))
    return ChannelAffine(torch.ones(channels), torch.zeros(channels), axis, trained)


def _with_rest(norm: nn.Module, affine: ChannelAffine, arguments: tuple[str, ...]) -> nn.Module:
    parts = norms.parts_of(norm)
    name = norm.activation if isinstance(norm, FusedActivation) else None
    if arguments:
        return Epilogue(nn.Identity() if name is None else MODULES[name](), arguments, affine)
    if name is not None:
        parts = {"act": MODULES[name]()}
    return nn.Sequential(OrderedDict(affine=affine, **parts)) if parts else affine


def _arguments_seen(model: nn.Module, named: dict[nn.Module, str], example: Any) -> dict[nn.Module, tuple[str, ...]]:
    """The names of the arguments besides x that the example's run passes to `forward` of each normalizer."""
    seen: dict[nn.Module, tuple[str, ...]] = dict.fromkeys(named, ())

    def hear(norm: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        order = tuple(inspect.signature(norm.forward).parameters)
        given = {**dict(zip(order, args, strict=False)), **kwargs}
        beside = [name for name, value in given.items() if name != order[0] and value is not None]
        odd = [name for name in beside if name != "residual"]
        if odd:
            raise ValueError(f"{named[norm]} ({type(norm).__name__}) is called with {odd[0]}=, which needs the layer")
        if beside:
            seen[norm] = order[1:]

    def work(forward: Any) -> None:
        evaluate(model, batch_statistics=False, stochastic_depth=False)
        for norm in named:
            norm.register_forward_pre_hook(hear, with_kwargs=True)
        forward(model)

    on_example(model, example, work, CALLER)
    return seen
