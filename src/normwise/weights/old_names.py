"""Checkpoints of `torch.nn.utils.spectral_norm`, which kept W, u and v among the other tensors of the layer."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize


class OldNames(NamedTuple):
    """A hook that renames ``weight_orig``, ``weight_u`` and ``weight_v`` of a state_dict to the names used here."""

    name: str
    norm_class: type[nn.Module]

    def __call__(self, module: nn.Module, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
        old = f"{prefix}{self.name}_"
        if f"{old}orig" not in state_dict or not parametrize.is_parametrized(module, self.name):
            return
        chain: Any = module.parametrizations[self.name]  # type: ignore[index]
        original = state_dict[f"{prefix}parametrizations.{self.name}.original"] = state_dict.pop(f"{old}orig")
        u, v = state_dict.pop(f"{old}u", None), state_dict.pop(f"{old}v", None)
        state_dict.pop(f"{prefix}{self.name}", None)  # torch before 1.0 stored W̄, too, and no v
        for index, norm in enumerate(chain):
            if isinstance(norm, self.norm_class) and hasattr(norm, "_v") and u is not None:
                at = f"{prefix}parametrizations.{self.name}.{index}."
                state_dict[f"{at}_u"] = u
                state_dict[f"{at}_v"] = _right_vector(original, u, norm.dim) if v is None else v  # type: ignore[arg-type]


def know_old_names(module: nn.Module, name: str, norm_class: type[nn.Module]) -> None:
    """Let the module load those checkpoints from now on."""
    forget_old_names(module, name)
    module.register_load_state_dict_pre_hook(OldNames(name, norm_class))


def forget_old_names(module: nn.Module, name: str) -> None:
    """Remove that hook from the module."""
    hooks = module._load_state_dict_pre_hooks
    for key, wrapped in list(hooks.items()):
        hook = getattr(wrapped, "hook", None)
        if isinstance(hook, OldNames) and hook.name == name:
            del hooks[key]


def _right_vector(weight: Tensor, u: Tensor, dim: int) -> Tensor:
    v = torch.mv(weight.movedim(dim, 0).flatten(1).mH, u.to(weight.dtype))
    return torch.nn.functional.normalize(v, dim=0).to(u.dtype)
