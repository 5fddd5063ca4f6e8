"""The rules of modules: their effect on a signal. A module without a rule is followed into its forward."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from . import linear, normalizers, pooling
from .functions import gated, unchanged
from .gaussian import Signal
from .options import Options
from .shapes import pad, rearrange

Rule = Callable[..., Signal]

_ACTIVATIONS = (
    *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.CELU, nn.SELU, nn.SiLU, nn.GELU, nn.Mish, nn.Hardswish),
    *(nn.Hardsigmoid, nn.Hardtanh, nn.Sigmoid, nn.Tanh, nn.Softplus, nn.Softsign, nn.LogSigmoid, nn.Tanhshrink),
    *(nn.Softshrink, nn.Hardshrink, nn.Threshold),
)
_UNCHANGED = (
    *(nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout),
)
_REARRANGED = (nn.Flatten, nn.Unflatten, nn.PixelShuffle, nn.PixelUnshuffle, nn.ChannelShuffle)
_PADDING = {
    "constant": (nn.ConstantPad1d, nn.ConstantPad2d, nn.ConstantPad3d, nn.ZeroPad1d, nn.ZeroPad2d, nn.ZeroPad3d),
    "reflect": (nn.ReflectionPad1d, nn.ReflectionPad2d, nn.ReflectionPad3d),
    "replicate": (nn.ReplicationPad1d, nn.ReplicationPad2d, nn.ReplicationPad3d),
    "circular": (nn.CircularPad1d, nn.CircularPad2d, nn.CircularPad3d),
}
# The same layer under its names in this library, timm and torchvision.
_BY_CLASS_NAME = ("StochasticDepth", "DropPath", "DropBlock2d", "DropBlock3d")


def _activation(module: nn.Module, options: Options, x: Signal) -> Signal:
    return x.apply(module.forward)


def _prelu(module: nn.PReLU, options: Options, x: Signal) -> Signal:
    slopes = module.weight.detach().double()
    return x.along(1).apply(lambda z: torch.where(z > 0, z, slopes * z))


def _glu(module: nn.GLU, options: Options, x: Signal) -> Signal:
    return gated(x, module.dim)


def _embedding(module: nn.Embedding, options: Options, x: torch.Tensor) -> Signal:
    """The rule of an embedding, for given tokens; integers cannot be predicted as a signal."""
    return Signal.measured(nn.functional.embedding(x.cpu(), module.weight.detach().cpu()), axis=x.dim())


def _padded(mode: str) -> Rule:
    return lambda module, options, x: pad(x, module.padding, mode, getattr(module, "value", 0.0))


def _skip_gain(module: Any, options: Options, x: Signal) -> Signal:
    gain = float(module.gain) if options.skip_gain is None else options.skip_gain
    return x.scaled(gain if module.alpha is None else gain * float(module.alpha))


RULES: dict[type[nn.Module], Rule] = {
    **dict.fromkeys(_ACTIVATIONS, _activation),
    **dict.fromkeys(_UNCHANGED, lambda module, options, x: unchanged(x)),
    **dict.fromkeys(_REARRANGED, lambda module, options, x: rearrange(module.forward, x)),
    **{layer_class: _padded(mode) for mode, classes in _PADDING.items() for layer_class in classes},
    nn.PReLU: _prelu,
    nn.GLU: _glu,
    nn.Embedding: _embedding,
    **linear.RULES,
    **pooling.RULES,
    **normalizers.RULES,
}


def rule_of(module: nn.Module) -> Rule | None:
    """The rule of a module's class, or of the class whose `forward` it inherits unchanged."""
    module_class = type(module)
    if module_class.__name__ == "SkipGain":
        return _skip_gain
    if module_class.__name__ in _BY_CLASS_NAME:
        return RULES[nn.Identity]
    for base in module_class.__mro__:
        if base in RULES:
            return RULES[base] if module_class.forward is base.forward else None  # type: ignore[attr-defined]
    return None
