"""Normalizers that are a scale and a shift of each channel in evaluation: which they are, and which numbers."""

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
#: By the class that defines `forward`: what evaluation computes is known, and that it is nothing else.
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
#: A share of another branch that no fp32 sum would notice.
_NOTHING = 2.0**-26


class ChannelMap(NamedTuple):
    """``y = scale · x + shift`` of each channel, in fp64; ``terms`` bounds what the shift was added up from."""

    scale: Tensor
    shift: Tensor
    terms: Tensor


def is_norm(module: nn.Module) -> bool:
    """Whether statistics that were gathered over batches may normalize here."""
    kind = parametrize.type_before_parametrizations(module)
    return isinstance(module, (_BatchNorm, _InstanceNorm)) or kind.__name__ in _FROZEN


def why_not(norm: nn.Module) -> str | None:
    """Why a normalizer cannot be folded whatever surrounds it, or None."""
    kind = parametrize.type_before_parametrizations(norm)
    home = home_of_forward(norm)
    if home is None or f"{home.__module__}.{home.__qualname__}" not in _KNOWN:
        return f"{kind.__name__} has a forward of its own"
    if has_hooks(norm) or norm._state_dict_hooks or norm._load_state_dict_pre_hooks:
        return "it has hooks, which would go with it"
    if norm.training and not _ignores_mode(norm):
        return "it is in training mode, where the batch normalizes; call eval() first"
    if getattr(norm, "banks", None) is not None and len(norm.banks) > 0:  # type: ignore[arg-type]
        return "it keeps statistics of several domains (banks)"
    if not _has_statistics(norm):
        return "it keeps no running statistics, so that the input itself normalizes"
    return _why_not_these(norm)


def _ignores_mode(norm: nn.Module) -> bool:
    frozen = isinstance(norm, RunningLayer) and norm.policy.frozen
    return frozen or not isinstance(norm, _NormBase)


def _has_statistics(norm: nn.Module) -> bool:
    if isinstance(norm, _InstanceNorm) and not norm.track_running_stats:
        return False
    return norm.running_mean is not None and norm.running_var is not None


def _why_not_these(norm: nn.Module) -> str | None:
    """About the values of the statistics and of what mixes them with others."""
    mean, var = norm.running_mean, norm.running_var
    if not isinstance(mean, Tensor) or not isinstance(var, Tensor):
        return "its statistics are no tensors"
    if mean.requires_grad or var.requires_grad:
        return "its statistics want a gradient"
    tensors = [t for t in (mean, var, norm.weight, norm.bias) if isinstance(t, Tensor)]
    if not all(bool(torch.isfinite(t).all()) for t in tensors):
        return "its statistics or parameters are not finite"
    if bool((in_fp64(var) + norm.eps <= 0).any()):  # type: ignore[operator]
        return "a variance is negative"
    if isinstance(norm, _SwitchableNorm):
        shares = norm.mix()
        batch = [of.get("batch", 0.0) for of in shares.values()]
        if min(batch) < 1 - _NOTHING:
            return f"the input itself normalizes in part (the batch's share is {min(batch):.3g})"
    elif isinstance(norm, _BATCH_INSTANCE):
        if not bool((norm.gate == 1).all()):
            return f"the input itself normalizes in part (its gates start at {norm.gate.min().item():.3g})"
    elif isinstance(norm, MixtureLayer):
        return f"{type(norm).__name__} mixes in what the input itself measures"
    return None


def channel_map(norm: nn.Module, call: LayerCall) -> ChannelMap | str:
    """What the normalizer does to each channel, or why this call does not say it."""
    weight, bias = norm.weight, norm.bias
    if isinstance(norm, _ConditionalBatchNorm):
        found = _fixed_condition(norm, call)
        if isinstance(found, str):
            return found
        weight, bias = found
    return map_of(norm, weight, bias)  # type: ignore[arg-type]


def map_of(norm: nn.Module, weight: Tensor | None, bias: Tensor | None) -> ChannelMap:
    """What running statistics, γ and β do to each channel."""
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
        return "its condition comes with each call; put the plain layer of one condition there: norm.fold(condition)"
    if given.shape[0] == 0 or not bool((given == given[0]).all()):
        return "its condition differs between samples"
    return norm._row(given[0])


def arguments_left(norm: nn.Module, call: LayerCall) -> list[str] | str:
    """What else a call of ours gives, in the order of `forward`; or why it cannot be done without the layer."""
    if not call.beside:
        return []
    if not isinstance(norm, RunningLayer):
        return "it is called with several arguments"
    names = ["residual", "mask", "lengths"]
    order = ["condition", *names] if isinstance(norm, ConditionTables) else names
    given = {order[key - 1] if isinstance(key, int) else key: value for key, value in call.beside.items()}
    return [name for name, value in given.items() if value is not None]


def channel_axis(norm: nn.Module, dims: int) -> int:
    """Where the channels are in an input of ``dims`` dimensions; InstanceNorm also takes one sample alone."""
    return dims - norm._get_no_batch_dim() if isinstance(norm, _InstanceNorm) else 1


def activation_of(norm: nn.Module) -> str | None:
    """The fused activation of one of our layers."""
    return getattr(norm, "activation", None) if isinstance(norm, RunningLayer) else None


def parts_of(norm: nn.Module) -> dict[str, nn.Module]:
    """The modules behind the normalization of timm's layers: dropout and activation."""
    parts: dict[str, Any] = {name: norm._modules.get(name) for name in ("drop", "act")}
    return {name: part for name, part in parts.items() if part is not None}
