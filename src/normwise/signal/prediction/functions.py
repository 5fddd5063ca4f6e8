"""The rules of functions and methods: their effect on a signal."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from . import normalizers
from .arithmetic import divided, minus, plus, times
from .gaussian import Signal
from .linear import convolution, linear, transposed_convolution
from .options import Options
from .pooling import (
    adaptive_average_pool,
    adaptive_max_pool,
    average_pool,
    interpolate,
    max_pool,
    mean_over,
)
from .shapes import concatenate, pad, rearrange

Function = Callable[..., Any]


def pointwise(function: Function) -> Function:
    """The rule of a function of each value."""

    def rule(x: Signal, *args: Any, inplace: bool = False, **kwargs: Any) -> Signal:
        return x.apply(lambda z: function(z, *args, **kwargs))

    return rule


def unchanged(x: Signal, *args: Any, **kwargs: Any) -> Signal:
    """The rule of copies, casts, and dropout, which is off in a measurement."""
    return x


def _power(x: Signal, exponent: float) -> Signal:
    return x.apply(lambda z: z**exponent)


def _added_product(x: Any, a: Any, b: Any, value: float = 1) -> Signal:
    return plus(x, times(a, b), alpha=value)


def _total(x: Signal, dim: int | Sequence[int] | None = None, keepdim: bool = False, dtype: object = None) -> Signal:
    averaged = mean_over(x, dim, keepdim)
    return times(averaged, x.shape.numel() // averaged.shape.numel())


def _flat(x: Signal, start_dim: int = 0, end_dim: int = -1) -> Signal:
    return rearrange(torch.flatten, x, start_dim, end_dim)


def gated(x: Signal, dim: int = -1) -> Signal:
    """`torch.nn.functional.glu`: one half times the sigmoid of the other."""
    values, gates = rearrange(torch.chunk, x, 2, dim)
    return times(values, gates.apply(torch.sigmoid))


def _item(x: Signal, index: Any) -> Any:
    return rearrange(operator.getitem, x, index)


def _batch_norm(
    x: Signal,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Signal:
    layer = SimpleNamespace(running_mean=running_mean, running_var=running_var, weight=weight, bias=bias, eps=eps)
    layer.training = training
    return normalizers.by_batch(normalizers.standardized)(layer, Options(batch_statistics=False), x)


def _group_norm(
    x: Signal, num_groups: int, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> Signal:
    layer = SimpleNamespace(num_groups=num_groups, weight=weight, bias=bias, eps=eps)
    return normalizers.RULES[torch.nn.GroupNorm](layer, Options(), x)


def _layer_norm(
    x: Signal,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Signal:
    layer = SimpleNamespace(normalized_shape=tuple(normalized_shape), weight=weight, bias=bias, eps=eps)
    return normalizers.RULES[torch.nn.LayerNorm](layer, Options(), x)


def _rms_norm(
    x: Signal, normalized_shape: Sequence[int], weight: Tensor | None = None, eps: float | None = None
) -> Signal:
    layer = SimpleNamespace(normalized_shape=tuple(normalized_shape), weight=weight, eps=eps)
    return normalizers.RULES[torch.nn.RMSNorm](layer, Options(), x)


_POINTWISE_NAMES = (
    *("relu", "relu_", "sigmoid", "sigmoid_", "tanh", "tanh_", "abs", "neg", "exp", "square", "sqrt", "rsqrt", "sin"),
    *("cos", "erf", "clamp", "clamp_", "clamp_min", "clamp_max", "clip", "reciprocal", "log1p", "expm1", "sign"),
)
_ACTIVATIONS = (
    *("relu", "relu6", "leaky_relu", "elu", "celu", "selu", "silu", "gelu", "mish", "hardswish", "hardsigmoid"),
    *("hardtanh", "softplus", "softsign", "logsigmoid", "sigmoid", "tanh", "tanhshrink", "softshrink", "hardshrink"),
    *("threshold",),
)
_VIEWS = (
    *("view", "reshape", "permute", "transpose", "squeeze", "unsqueeze", "expand", "movedim", "swapaxes", "narrow"),
    *("chunk", "split", "unbind", "roll", "flip", "flatten", "unflatten", "swapdims", "index_select", "tile"),
    *("view_as", "reshape_as", "repeat", "select"),
)
_UNCHANGED = ("contiguous", "clone", "detach", "float", "double", "half", "bfloat16", "to", "type", "type_as", "cpu")

METHODS: dict[str, Function] = {
    **{name: pointwise(getattr(torch, name)) for name in _POINTWISE_NAMES if hasattr(torch, name)},
    **{name: partial(rearrange, getattr(Tensor, name)) for name in _VIEWS},
    **dict.fromkeys(_UNCHANGED, unchanged),
    **dict.fromkeys(("add", "add_", "__add__", "__radd__"), plus),
    **dict.fromkeys(("sub", "sub_"), minus),
    **dict.fromkeys(("mul", "mul_"), times),
    **dict.fromkeys(("div", "div_", "true_divide"), divided),
    "expand_as": partial(rearrange, Tensor.expand_as),
    "mean": mean_over,
    "sum": _total,
    "pow": _power,
    "size": lambda x, dim=None: x.shape if dim is None else x.shape[dim],
    "dim": lambda x: len(x.shape),
}

FUNCTIONS: dict[Function, Function] = {
    **{getattr(torch, name): pointwise(getattr(torch, name)) for name in _POINTWISE_NAMES if hasattr(torch, name)},
    **{getattr(F, name): pointwise(getattr(F, name)) for name in _ACTIVATIONS},
    **{getattr(torch, name): rule for name in _VIEWS if hasattr(torch, name) for rule in (METHODS[name],)},
    **dict.fromkeys((operator.add, operator.iadd, torch.add), plus),
    **dict.fromkeys((operator.sub, operator.isub, torch.sub), minus),
    **dict.fromkeys((operator.mul, operator.imul, torch.mul), times),
    **dict.fromkeys((operator.truediv, operator.itruediv, torch.div), divided),
    operator.neg: pointwise(operator.neg),
    operator.pow: _power,
    torch.pow: _power,
    torch.addcmul: _added_product,
    operator.getitem: _item,
    torch.flatten: _flat,
    torch.mean: mean_over,
    torch.sum: _total,
    **dict.fromkeys((torch.cat, torch.concat), concatenate),
    F.pad: pad,
    F.linear: linear,
    **dict.fromkeys((F.conv1d, F.conv2d, F.conv3d), convolution),
    **dict.fromkeys((F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d), transposed_convolution),
    **dict.fromkeys((F.avg_pool1d, F.avg_pool2d, F.avg_pool3d), average_pool),
    **dict.fromkeys((F.max_pool1d, F.max_pool2d, F.max_pool3d), max_pool),
    **dict.fromkeys((F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d), adaptive_average_pool),
    **dict.fromkeys((F.adaptive_max_pool1d, F.adaptive_max_pool2d, F.adaptive_max_pool3d), adaptive_max_pool),
    F.glu: gated,
    F.interpolate: interpolate,
    F.pixel_shuffle: partial(rearrange, F.pixel_shuffle),
    F.pixel_unshuffle: partial(rearrange, F.pixel_unshuffle),
    **dict.fromkeys((F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, F.alpha_dropout), unchanged),
    F.batch_norm: _batch_norm,
    F.group_norm: _group_norm,
    F.layer_norm: _layer_norm,
    F.rms_norm: _rms_norm,
}


def attribute(x: Signal, name: str) -> Any:
    """An attribute of a tensor, such as its shape."""
    known = {"shape": x.shape, "ndim": len(x.shape), "dtype": torch.float32, "device": torch.device("cpu")}
    if name in known:
        return known[name]
    if name in ("T", "mT"):
        return rearrange(lambda t: getattr(t, name), x)
    raise NotImplementedError(f"the attribute .{name} of a tensor")
