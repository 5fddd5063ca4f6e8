"""Normalizers that only scale and shift each channel in evaluation: find them and compute scale and shift."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.nn.utils import parametrize

from ...core.precision import in_fp64
from ...layers._conditions import ConditionTables
from ...layers.batch_instance_norm import BatchInstanceNorm1d, BatchInstanceNorm2d, BatchInstanceNorm3d
from ...layers.conditional_batch_norm import _ConditionalBatchNorm
from ...layers.mixture_layer import MixtureLayer
from ...layers.running_layer import RunningLayer
from ...layers.switchable_norm import _SwitchableNorm
from ..given import home_of_forward
from .layers import has_hooks
from .observation import LayerCall

_BATCH_INSTANCE = (BatchInstanceNorm1d, BatchInstanceNorm2d, BatchInstanceNorm3d)
#: Classes whose `forward` is known to compute only a scale and a shift in evaluation.
_KNOWN = frozenset(
    {
        "torch.nn.modules.batchnorm._BatchNorm",
        "torch.nn.modules.batchnorm.SyncBatchNorm",
        "torch.nn.modules.instancenorm._InstanceNorm",
        "timm.layers.norm_act.BatchNormAct2d",
        "timm.layers.norm_act.SyncBatchNormAct",
        "timm.layers.norm_act.FrozenBatchNorm2d",
        "timm.layers.norm_act.FrozenBatchNormAct2d",
        "torchvision.ops.misc.FrozenBatchNorm2d",
        "detectron2.layers.batch_norm.FrozenBatchNorm2d",
        "normwise.layers.batch_layer.BatchLayer",
        "normwise.layers.group_norm._InstanceNorm",
        "normwise.layers.conditional_batch_norm._ConditionalBatchNorm",
    }
)
_FROZEN = ("FrozenBatchNorm2d", "FrozenBatchNormAct2d")
#: A share of another branch too small to change a sum in fp32.
_NOTHING = 2.0**-26


class ChannelMap(NamedTuple):
    """``y = scale · x + shift`` of each channel, in fp64; ``terms`` bounds the magnitude of the terms of the shift."""

    scale: Tensor
    shift: Tensor
    terms: Tensor


def is_norm(module: nn.Module) -> bool:
    """Whether a module may normalize by running statistics."""
    layer_class = parametrize.type_before_parametrizations(module)
    return isinstance(module, (_BatchNorm, _InstanceNorm)) or layer_class.__name__ in _FROZEN


def why_not(norm: nn.Module) -> str | None:
    """Why a normalizer cannot be folded whatever surrounds it, or None."""
    layer_class = parametrize.type_before_parametrizations(norm)
    home = home_of_forward(norm)
    if home is None or f"{home.__module__}.{home.__qualname__}" not in _KNOWN:
        return f"{layer_class.__name__} has a forward of its own"
    if has_hooks(norm) or norm._state_dict_hooks or norm._load_state_dict_pre_hooks:
        return "it has hooks, which would be lost with it"
    if norm.training and not _ignores_mode(norm):
        return "it is in training mode, where the batch normalizes; call eval() first"
    if getattr(norm, "banks", None) is not None and len(norm.banks) > 0:  # type: ignore[arg-type]
        return "it keeps statistics of several domains (banks)"
    if not _has_statistics(norm):
        return "it keeps no running statistics and normalizes by those of its input"
    return _why_not_these(norm)


def _ignores_mode(norm: nn.Module) -> bool:
    frozen = isinstance(norm, RunningLayer) and norm.policy.frozen
    return frozen or not isinstance(norm, _NormBase)


def _has_statistics(norm: nn.Module) -> bool:
    if isinstance(norm, _InstanceNorm) and not norm.track_running_stats:
        return False
    return norm.running_mean is not None and norm.running_var is not None


def _why_not_these(norm: nn.Module) -> str | None:
    """Why the values of the statistics do not allow a fold; None if they do."""
    mean, var = norm.running_mean, norm.running_var
    if not isinstance(mean, Tensor) or not isinstance(var, Tensor):
        return "its statistics are no tensors"
    if mean.requires_grad or var.requires_grad:
        return "its statistics require a gradient"
    tensors = [t for t in (mean, var, norm.weight, norm.bias) if isinstance(t, Tensor)]
    if not all(bool(torch.isfinite(t).all()) for t in tensors):
        return "its statistics or parameters are not finite"
    if bool((in_fp64(var) + norm.eps <= 0).any()):  # type: ignore[operator]
        return "a variance is negative"
    if isinstance(norm, _SwitchableNorm):
        shares = norm.mix()
        batch = [of.get("batch", 0.0) for of in shares.values()]
        if min(batch) < 1 - _NOTHING:
            return f"it also uses the statistics of its input (the batch's share is {min(batch):.3g})"
    elif isinstance(norm, _BATCH_INSTANCE):
        if not bool((norm.gate == 1).all()):
            return f"it also uses the statistics of its input (its gates start at {norm.gate.min().item():.3g})"
    elif isinstance(norm, MixtureLayer):
        return f"{type(norm).__name__} also uses the statistics of its input"
    return None


def channel_map(norm: nn.Module, call: LayerCall) -> ChannelMap | str:
    """The scale and shift of each channel, or why they cannot be known from this call."""
    weight, bias = norm.weight, norm.bias
    if isinstance(norm, _ConditionalBatchNorm):
        found = _fixed_condition(norm, call)
        if isinstance(found, str):
            return found
        weight, bias = found
    return map_of(norm, weight, bias)  # type: ignore[arg-type]


def map_of(norm: nn.Module, weight: Tensor | None, bias: Tensor | None) -> ChannelMap:
    """The scale and shift of each channel by running statistics, γ and β."""
    mean, var = (in_fp64(t.detach()) for t in (norm.running_mean, norm.running_var))  # type: ignore[operator, union-attr]
    scale = (var + norm.eps).rsqrt()  # type: ignore[operator]
    if weight is not None:
        scale = scale * in_fp64(weight.detach())
    moved = -mean * scale
    offset = torch.zeros_like(moved) if bias is None else in_fp64(bias.detach())
    return ChannelMap(scale, moved + offset, moved.abs() + offset.abs())


def _fixed_condition(norm: ConditionTables, call: LayerCall) -> tuple[Tensor, Tensor] | str:
    key = "condition" if "condition" in call.beside else 1
    given = call.beside.get(key)
    if not isinstance(given, Tensor) or key not in call.fixed:
        return (
            "its condition comes with each call; first replace it by the layer of one condition: norm.fold(condition)"
        )
    if given.shape[0] == 0 or not bool((given == given[0]).all()):
        return "its condition differs between samples"
    return norm._row(given[0])


def arguments_left(norm: nn.Module, call: LayerCall) -> list[str] | str:
    """The other arguments of a call of our layers, in the order of `forward`; or why they need the layer."""
    if not call.beside:
        return []
    if not isinstance(norm, RunningLayer):
        return "it is called with several arguments"
    names = ["residual", "mask", "lengths"]
    order = ["condition", *names] if isinstance(norm, ConditionTables) else names
    given = {order[key - 1] if isinstance(key, int) else key: value for key, value in call.beside.items()}
    return [name for name, value in given.items() if value is not None]


def channel_axis(norm: nn.Module, dims: int) -> int:
    """The channel dimension of an input of ``dims`` dimensions; InstanceNorm also accepts an unbatched sample."""
    return dims - norm._get_no_batch_dim() if isinstance(norm, _InstanceNorm) else 1


def activation_of(norm: nn.Module) -> str | None:
    """The fused activation of one of our layers."""
    return getattr(norm, "activation", None) if isinstance(norm, RunningLayer) else None


def parts_of(norm: nn.Module) -> dict[str, nn.Module]:
    """The modules behind the normalization of timm's layers: dropout and activation."""
    parts: dict[str, Any] = {name: norm._modules.get(name) for name in ("drop", "act")}
    return {name: part for name, part in parts.items() if part is not None}
