r"""Activations that the kernels fuse: the function, its derivative, and its variance-preserving gain."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache, partial
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Activation(NamedTuple):
    """A function of one value, as differentiable PyTorch, and its ``derivative`` f'(z) at the same input z."""

    name: str
    function: Callable[[Tensor], Tensor]
    derivative: Callable[[Tensor], Tensor]


def _sigmoid_slope(z: Tensor) -> Tensor:
    s = torch.sigmoid(z)
    return s * (1 - s)


def _silu_slope(z: Tensor) -> Tensor:
    s = torch.sigmoid(z)
    return s * (1 + z * (1 - s))


def _gelu_slope(z: Tensor) -> Tensor:
    density = torch.exp(-0.5 * z * z) / math.sqrt(2 * math.pi)
    return 0.5 * (1 + torch.erf(z / math.sqrt(2))) + z * density


def _gelu_tanh_slope(z: Tensor) -> Tensor:
    k, c = math.sqrt(2 / math.pi), 0.044715
    t = torch.tanh(k * (z + c * z**3))
    return 0.5 * (1 + t) + 0.5 * z * (1 - t * t) * k * (1 + 3 * c * z * z)


def _mish_slope(z: Tensor) -> Tensor:
    t = torch.tanh(F.softplus(z))
    return t + z * (1 - t * t) * torch.sigmoid(z)


def _inside(z: Tensor, low: float, high: float) -> Tensor:
    return ((z > low) & (z < high)).to(z.dtype)


_SELU_SCALE, _SELU_ALPHA = 1.0507009873554805, 1.6732632423543772

_TABLE = (
    Activation("relu", F.relu, lambda z: (z > 0).to(z.dtype)),
    Activation("relu6", F.relu6, lambda z: _inside(z, 0.0, 6.0)),
    Activation("leaky_relu", F.leaky_relu, lambda z: torch.where(z > 0, torch.ones_like(z), 0.01)),
    Activation("elu", F.elu, lambda z: torch.exp(z.clamp_max(0.0))),
    Activation("celu", F.celu, lambda z: torch.exp(z.clamp_max(0.0))),
    Activation(
        "selu",
        F.selu,
        lambda z: _SELU_SCALE * torch.where(z > 0, 1.0, _SELU_ALPHA * torch.exp(z.clamp_max(0.0))),
    ),
    Activation("silu", F.silu, _silu_slope),
    Activation("gelu", F.gelu, _gelu_slope),
    Activation("gelu_tanh", lambda z: F.gelu(z, approximate="tanh"), _gelu_tanh_slope),
    Activation("mish", F.mish, _mish_slope),
    Activation(
        "hardswish",
        F.hardswish,
        lambda z: torch.where(z <= -3, 0.0, torch.where(z >= 3, 1.0, z / 3 + 0.5)).to(z.dtype),
    ),
    Activation("sigmoid", torch.sigmoid, _sigmoid_slope),
    Activation("tanh", torch.tanh, lambda z: 1 - torch.tanh(z).square()),
    Activation("softplus", F.softplus, torch.sigmoid),
    Activation("softsign", F.softsign, lambda z: (1 + z.abs()).square().reciprocal()),
)

#: Every activation that `activation=` accepts, by name.
ACTIVATIONS: dict[str, Activation] = {a.name: a for a in _TABLE}

#: The constructor of torch's module for each of them.
MODULES: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "leaky_relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "celu": nn.CELU,
    "selu": nn.SELU,
    "silu": nn.SiLU,
    "gelu": nn.GELU,
    "gelu_tanh": partial(nn.GELU, "tanh"),
    "mish": nn.Mish,
    "hardswish": nn.Hardswish,
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "softplus": nn.Softplus,
    "softsign": nn.Softsign,
}


def activation_named(name: str | None) -> Activation | None:
    """The activation of that name; None for None.

    Raises TypeError for anything but a name, ValueError for an unknown one.
    """
    if name is None:
        return None
    if not isinstance(name, str):
        raise TypeError(f"activation must be None or a name such as 'relu', received {type(name).__name__}.")
    if name not in ACTIVATIONS:
        raise ValueError(f"Unknown activation {name!r}; the fused ones are: {', '.join(ACTIVATIONS)}.")
    return ACTIVATIONS[name]


@cache
def gain(name: str) -> float:
    r"""The factor that keeps unit variance through an activation, by name; see `function_gain`.

    Source: Brock, De and Smith 2021, arXiv:2101.08692. Their published table is a Monte-Carlo estimate; it
    agrees to about 0.1 %.

    >>> round(gain("relu"), 6) == round(math.sqrt(2 / (1 - 1 / math.pi)), 6)
    True
    """
    activation = activation_named(name)
    return 1.0 if activation is None else function_gain(activation.function)


@torch.no_grad()
def function_gain(function: Callable[[Tensor], Tensor]) -> float:
    r"""The factor that keeps unit variance through any function of one value, exact by quadrature.

    .. math:: \gamma = 1 / \sqrt{\operatorname{Var}[f(z)]}, \quad z \sim \mathcal N(0, 1)

    Simpson's rule in fp64 on [-12, 12] with a step that puts the kinks at 0, ±3 and 6 on grid points. ``function``
    takes and returns an fp64 tensor ``[n]``.

    Raises ValueError where the variance is 0 or not finite.

    >>> round(function_gain(lambda z: 2 * z), 12)
    0.5
    """
    z = np.linspace(-12.0, 12.0, 48_001)
    weights = np.full(z.size, 2.0)
    weights[1::2] = 4.0
    weights[[0, -1]] = 1.0
    weights *= (z[1] - z[0]) / 3 * np.exp(-0.5 * z * z) / math.sqrt(2 * math.pi)
    values = function(torch.from_numpy(z)).numpy()
    mean = float(weights @ values)
    variance = float(weights @ (values - mean) ** 2)
    if not 0 < variance < math.inf:
        raise ValueError(f"The activation's variance over standard normal inputs must be positive, it is {variance}.")
    return 1.0 / math.sqrt(variance)
