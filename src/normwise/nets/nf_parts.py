"""The parts of normalizer-free networks: activations with their gain, squeeze-excite, padding, and the convolutions."""

import math
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypedDict

from torch import Tensor, nn
from torch.nn import functional as F

from ..core.activations import MODULES, function_gain, gain
from ..weights import ScaledWSConv2d
from .forms import Stem, checked_choice

#: The name of an activation, or a constructor of its module: a class such as torch.nn.PReLU, or a function.
ActivationLike = str | Callable[[], nn.Module]
Gamma = Literal["exact", "official"]
Padding = Literal["same", "symmetric"]


class NFOptions(TypedDict, total=False):
    """The options of every builder of a normalizer-free network, besides the numbers of classes and channels."""

    stem: Stem | None
    activation: ActivationLike
    gamma: Gamma
    alpha: float
    skip_gain: float
    dropout: float | None
    stochastic_depth: float
    padding: Padding


#: The published gains: Monte-Carlo estimates, up to 0.1 % from the exact ones (`core.activations.gain`).
OFFICIAL_GAMMA = {
    "relu": 1.7139588594436646,
    "relu6": 1.7131484746932983,
    "leaky_relu": 1.70590341091156,
    "elu": 1.2716004848480225,
    "celu": 1.270926833152771,
    "selu": 1.0008515119552612,
    "silu": 1.7881293296813965,
    "gelu": 1.7015043497085571,
    "gelu_tanh": 1.7015043497085571,
    "sigmoid": 4.803835391998291,
    "tanh": 1.5939117670059204,
    "softplus": 1.9203323125839233,
    "softsign": 2.338853120803833,
}


def activation_maker(caller: str, activation: ActivationLike, gamma: Gamma) -> tuple[Callable[[], nn.Module], float]:
    """The constructor of the activation's module, and its gain."""
    checked_choice(caller, "gamma", gamma, ("exact", "official"))
    if isinstance(activation, str) and activation not in MODULES:
        raise ValueError(
            f"{caller}(activation={activation!r}): the names are {', '.join(MODULES)}; for another one give its class "
            "or a function that makes its module."
        )
    if gamma == "official":
        if not isinstance(activation, str) or activation not in OFFICIAL_GAMMA:
            raise ValueError(
                f"{caller}(activation={activation!r}, gamma='official'): the official table has "
                f"{', '.join(OFFICIAL_GAMMA)}; write gamma='exact'."
            )
        return MODULES[activation], OFFICIAL_GAMMA[activation]
    if isinstance(activation, str):
        return MODULES[activation], gain(activation)
    return activation, _gain_of_module(caller, activation)


def _gain_of_module(caller: str, make: Callable[[], nn.Module]) -> float:
    module = make() if callable(make) and not isinstance(make, nn.Module) else None
    if not isinstance(module, nn.Module):
        raise TypeError(
            f"{caller}(activation={make!r}): expected a name, or a class or function that makes the activation's "
            "module, such as torch.nn.PReLU."
        )
    return function_gain(module.cpu().double())


class SqueezeExcite(nn.Module):
    r"""Scale channels by twice a gate computed from their averages over space.

    .. math:: y = 2\,\sigma(W_2 \operatorname{relu}(W_1 \bar x + b_1) + b_2) \cdot x

    ``[N, C, H, W]`` to the same. The factor 2 keeps the signal's size, since the gate starts around ½. Weights start
    truncated normal with variance parameter 1 / fan-in, biases 0.

    Source: Hu et al. 2017, arXiv:1709.01507; the factor: Brock, De and Smith 2021, arXiv:2101.08692.
    """

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.reduce = nn.Linear(channels, hidden)
        self.expand = nn.Linear(hidden, channels)
        for layer in (self.reduce, self.expand):
            std = layer.in_features**-0.5
            nn.init.trunc_normal_(layer.weight, std=std, a=-2 * std, b=2 * std)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        gate = self.expand(F.relu(self.reduce(x.mean((2, 3))))).sigmoid()
        return x * (2 * gate)[:, :, None, None]


def _same_padding(x: Tensor, kernel: int, stride: int) -> list[int]:
    """Zeros left, right, above and below, an extra one at the end, so that there are ceil(side / stride) outputs."""
    sides: list[int] = []
    for side in (x.shape[-1], x.shape[-2]):
        total = kernel - 1 - (side - 1) % stride
        sides += [total // 2, total - total // 2]
    return sides


class SamePad2d(nn.Module):
    """The zeros that "same" padding puts around the input of a strided convolution; ``kernel >= stride``.

    They depend on the size: for an even side, kernel 3 and stride 2 need one zero at the end and none before.
    """

    def __init__(self, kernel: int, stride: int) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x, _same_padding(x, self.kernel, self.stride))

    def extra_repr(self) -> str:
        return f"kernel={self.kernel}, stride={self.stride}"


class SameMaxPool2d(SamePad2d):
    """Max-pooling with "same" padding, whose values never become the maximum."""

    def forward(self, x: Tensor) -> Tensor:
        padded = F.pad(x, _same_padding(x, self.kernel, self.stride), value=-math.inf)
        return F.max_pool2d(padded, self.kernel, self.stride)


def he_conv(inputs: int, outputs: int, kernel: int, stride: int, padding: int, groups: int, beta: float) -> nn.Conv2d:
    """A plain convolution of He's initialization (fan-in) times beta, bias 0."""
    conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups)
    nn.init.normal_(conv.weight, std=beta * math.sqrt(2 / conv.weight[0].numel()))
    nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
    return conv


@dataclass(frozen=True)
class Recipe:
    """The settings that all parts of one normalizer-free network share."""

    activation: Callable[[], nn.Module]
    gamma: float
    alpha: float
    skip_gain: float
    padding: Padding
    standardize: bool
    pooled_shortcut: bool = False

    def add_conv(
        self,
        layers: OrderedDict[str, nn.Module],
        name: str,
        inputs: int,
        outputs: int,
        kernel: int,
        stride: int = 1,
        groups: int = 1,
        gamma: float = 1.0,
        beta: float = 1.0,
    ) -> None:
        """Append ``conv(gamma · beta · x)``, preceded by the padding that torch's convolutions do not offer."""
        same = self.padding == "same" and stride > 1 and kernel > 1
        if same:
            layers[f"{name}_pad"] = SamePad2d(kernel, stride)
        padding = 0 if same else kernel // 2
        if self.standardize:
            conv = ScaledWSConv2d(inputs, outputs, kernel, stride, padding, groups=groups, gamma=gamma * beta)
        else:
            conv = he_conv(inputs, outputs, kernel, stride, padding, groups, beta)
        layers[name] = conv

    def add_pool(self, layers: OrderedDict[str, nn.Module]) -> None:
        """Append 3×3 max-pooling with stride 2."""
        layers["pool"] = SameMaxPool2d(3, 2) if self.padding == "same" else nn.MaxPool2d(3, 2, padding=1)


def recipe_of(
    caller: str,
    activation: ActivationLike,
    gamma: Gamma,
    padding: Padding,
    alpha: float,
    skip_gain: float,
    *,
    standardize: bool = True,
    pooled_shortcut: bool = False,
) -> Recipe:
    """The recipe for a builder's arguments; ValueError for unknown names and an α that is not positive."""
    if not 0 < alpha < math.inf:
        raise ValueError(f"{caller}(alpha={alpha!r}): the factor of the branches must be positive, 0.2 in the papers.")
    checked_choice(caller, "padding", padding, ("same", "symmetric"))
    make, value = activation_maker(caller, activation, gamma)
    return Recipe(make, value, alpha, skip_gain, padding, standardize, pooled_shortcut)
