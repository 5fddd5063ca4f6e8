"""Handing over hooks, mode and attributes from a module to the one that replaces it."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import _WrappedHook
from torch.nn.utils import parametrize

from .frozen import FROZEN_PARAMETERS, StaysInEvaluation

#: The dicts of hooks, and the dicts that mark some of the hooks by the same keys.
HOOKS = tuple(name for name in vars(nn.Module()) if name.endswith(("_hooks", "_hooks_with_kwargs", "_always_called")))


def inherit(new: nn.Module, old: nn.Module) -> None:
    """Give ``new`` the hooks, foreign attributes, mode, device, dtype and ``requires_grad`` of ``old``.

    An attribute is foreign if neither the class of ``old`` nor its constructor declares it, such as a ``qconfig``.
    Handles of hooks go on working. ``old`` is not changed, and ``new`` may contain it. Values of parameters and buffers
    are not copied; `share_tensors` does that.
    """
    fresh = set(new.modules()) - set(old.modules())
    if new not in fresh:
        return
    _inherit_hooks(new, old)
    for name in vars(old).keys() - vars(new).keys() - _own_names(old):
        vars(new)[name] = vars(old)[name]
    _inherit_frozen(new, old)
    gradient = any(p.requires_grad for p in old.parameters())
    frozen = bool(list(old.parameters())) and not gradient
    for module in fresh:
        module.training = old.training
        _move(module, old)
        for name, parameter in module._parameters.items():
            if parameter is not None:
                theirs = old._parameters.get(name) if module is new else None
                wanted = theirs.requires_grad if theirs is not None else parameter.requires_grad and not frozen
                parameter.requires_grad_(wanted)


def _inherit_frozen(new: nn.Module, old: nn.Module) -> None:
    """A frozen layer's successor with running statistics is frozen, too, with all that `unfreeze` needs."""
    if new._buffers.get("running_mean") is None:
        return
    if StaysInEvaluation.holds(old) and not hasattr(new, "policy"):  # our own layers have a policy for it
        StaysInEvaluation.freeze(new)
        new.train(vars(old)["train"].requested)
    if FROZEN_PARAMETERS in vars(old):
        names = vars(old)[FROZEN_PARAMETERS]
        vars(new)[FROZEN_PARAMETERS] = tuple(name for name in names if name in new._parameters)


def share_tensors(new: nn.Module, old: nn.Module) -> None:
    """Make ``old``'s parameters and buffers those of ``new``: the same objects, their parametrizations included.

    This holds for each name that both modules have; a tensor that is None in ``old`` becomes None in ``new``.
    """
    for ours, theirs in ((new._parameters, old._parameters), (new._buffers, old._buffers)):
        for name in ours.keys() & theirs.keys():
            ours[name] = theirs[name]  # type: ignore[assignment]
    if parametrize.is_parametrized(old):
        known = [name for name in old.parametrizations if name in new._parameters or name in new._buffers]  # type: ignore[union-attr]
        _parametrize_as(new, old.parametrizations, known)


def _parametrize_as(new: nn.Module, chains: Any, names: list[str]) -> None:
    """Hand over the parametrizations as they are; `register_parametrization` would compute new originals."""
    parametrize._inject_new_class(new)
    new.parametrizations = nn.ModuleDict()
    for name in names:
        delattr(new, name)
        parametrize._inject_property(new, name)
        new.parametrizations[name] = chains[name]


def _inherit_hooks(new: nn.Module, old: nn.Module) -> None:
    """Add the hooks of ``old``; hooks that receive their module receive ``new`` instead."""
    for name in HOOKS:
        theirs, ours = getattr(old, name), getattr(new, name)
        if not theirs:
            continue
        bound = {key for key, hook in theirs.items() if isinstance(hook, _WrappedHook) and hook.with_module}
        if not ours and not bound:
            setattr(new, name, theirs)  # the same dict, so that a handle finds its hook there to remove it
            continue
        for key, hook in theirs.items():
            ours[key] = _WrappedHook(hook.hook, new) if key in bound else hook
    if new._is_full_backward_hook is None:
        new._is_full_backward_hook = old._is_full_backward_hook


def _own_names(module: nn.Module) -> set[str]:
    """Attributes that belong to a module's class: arguments of its constructors, declared and private names."""
    classes = parametrize.type_before_parametrizations(module).__mro__
    names = {"forward", *getattr(module, "__constants__", ())}
    for cls in classes:
        names |= {*vars(cls).get("__annotations__", ()), *vars(cls)}
        if "__init__" in vars(cls) and cls is not object:
            names |= {*inspect.signature(cls.__init__).parameters}
    return names | {name for name in vars(module) if name.startswith("_") and not name.startswith("__")}


def _move(module: nn.Module, old: nn.Module) -> None:
    """Move to ``old``'s device and dtype: those of its tensor of the same name, else of its first tensor."""
    theirs = {**dict(old.named_buffers(recurse=False)), **dict(old.named_parameters(recurse=False))}
    like = next((t for t in (*old.parameters(), *old.buffers()) if t.is_floating_point()), None)
    if like is None:
        return
    wide = getattr(module, "wide", ())
    for store in (module._parameters, module._buffers):
        for name, tensor in store.items():
            if tensor is None:
                continue
            model = theirs.get(name, like)
            dtype = model.dtype if tensor.is_floating_point() and model.is_floating_point() else tensor.dtype
            if name in wide:
                dtype = torch.promote_types(dtype, torch.float32)
            tensor.data = tensor.data.to(model.device, dtype)
