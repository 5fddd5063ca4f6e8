"""Find and replace layers that normalize each token [*, C] separately, also those of other libraries."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ...core.model_change import ModelChange
from ...layers import NORMALIZERS, Norm
from ...layers.layer_norm import LayerNorm, RMSNorm
from ...layers.zero_centered import gain_of, stored

_OWN = (nn.LayerNorm, nn.RMSNorm, LayerNorm, RMSNorm)
#: Libraries whose layers of these names normalize over the last dimension, with a weight [C] or none.
_LIBRARIES = {
    "timm.layers.norm": ("LayerNorm", "LayerNormFp32", "RmsNorm", "SimpleNorm"),
    "transformers.": ("RMSNorm", "LayerNorm"),
}
#: Layers that keep the weight as its distance from 1.
_AROUND_ONE = ("Gemma", "Qwen3Next", "Qwen3_5")


def is_for_tokens(norm: Norm) -> bool:
    """Whether a normalizer is one of rows [*, C].

    >>> is_for_tokens("token-rms"), is_for_tokens("layer")
    (True, False)
    """
    row = NORMALIZERS.get(norm.partition(":")[0]) if isinstance(norm, str) else None
    return row is not None and not row.for_channels and row.condition is None


def token_layers(model: nn.Module) -> dict[str, nn.Module]:
    """The layers that normalize the last dimension alone, by name."""
    return {name: module for name, module in model.named_modules() if _normalizes_tokens(module)}


def token_layer(norm: Norm, old: nn.Module) -> nn.Module:
    """A layer of `norm` for the place of `old`, with its eps, and with weights where those of `old` are not fresh."""
    new = _made(norm, _width(old))
    eps = getattr(old, "eps", getattr(old, "variance_epsilon", None))
    if isinstance(eps, float) and isinstance(new, _OWN):
        new.eps = eps
    _carry(old, new)
    return new


def leave_fast_path(module: nn.Module, change: ModelChange) -> None:
    """Turn off the fast path of torch's encoder.

    In evaluation torch.nn.TransformerEncoderLayer passes the weight, bias and eps of its two norms to one operator that
    always computes LayerNorm; TransformerEncoder does the same with nested tensors.
    """
    if isinstance(module, nn.TransformerEncoderLayer):
        change.set(module, "activation_relu_or_gelu", 0)
    if isinstance(module, nn.TransformerEncoder):
        change.set(module, "use_nested_tensor", False)


def _made(norm: Norm, width: int) -> nn.Module:
    if not isinstance(norm, str):
        return norm(width)
    name = norm.partition(":")[0]
    row = NORMALIZERS.get(name)
    if row is None or (row.for_channels and name != "none"):
        fitting = ", ".join(name for name in NORMALIZERS if is_for_tokens(name))
        raise ValueError(
            f"{norm!r} normalizes maps [N, C, *space], and the layer needs a normalizer of tokens [*, C]; choose one "
            f"of {fitting}."
        )
    return row.make(width, 1, None)


def _normalizes_tokens(module: nn.Module) -> bool:
    if type(module) in _OWN:
        return len(module.normalized_shape) == 1  # type: ignore[arg-type]
    layer_class = type(module)
    for home, names in _LIBRARIES.items():
        known = layer_class.__name__ in names if home.startswith("timm") else layer_class.__name__.endswith(names)
        if layer_class.__module__.startswith(home) and known:
            return _width(module) > 0
    return False


def _width(module: nn.Module) -> int:
    """The number of features C; 0 if the layer does not tell."""
    shape = getattr(module, "normalized_shape", None)
    weight = getattr(module, "weight", None)
    if shape is not None:
        return int(shape[-1]) if len(shape) == 1 else 0
    return weight.numel() if isinstance(weight, Tensor) and weight.dim() == 1 else 0


@torch.no_grad()
def _carry(old: nn.Module, new: nn.Module) -> None:
    """Copy a weight or bias that is not 1 or 0 everywhere; one that the old layer lacks is removed from the new one."""
    for name, default in (("weight", 1.0), ("bias", 0.0)):
        before, after = getattr(old, name, None), getattr(new, name, None)
        if not isinstance(after, Tensor):
            continue
        if before is None and isinstance(old, _OWN) and isinstance(new, _OWN):
            if name == "weight" or not isinstance(old, nn.RMSNorm):
                new.register_parameter(name, None)
        elif isinstance(before, Tensor) and before.shape == after.shape:
            around_one = name == "weight" and type(old).__name__.startswith(_AROUND_ONE)
            value = 1 + before.float() if around_one else before
            if name == "weight" and getattr(old, "zero_centered", False):
                value = gain_of(old)
            if (value != default).any():  # type: ignore[union-attr]
                after.copy_(stored(new, value) if name == "weight" else value)  # type: ignore[arg-type]
