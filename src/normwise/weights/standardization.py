"""Weight standardization and scaled weight standardization: the functions and the parametrizations."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from normwise.core import activations
from normwise.core.arguments import check_floating
from normwise.core.layout import check_memory
from normwise.core.tables import check_optional
from normwise.operations.saved import guarded

from .layers import AnyModule, FanIn, check_fan_in, check_layer, computing_dtype, parametrized, weight_of


def weight_standardization(module: AnyModule, name: str = "weight", eps: float = 1e-5) -> AnyModule:
    r"""Give each output unit's weights mean 0 and variance 1: a parametrization for linear and convolution layers.

    .. math:: \bar W_o = \frac{W_o - \mu_o}{\sigma_o + \epsilon}

    μ and σ (**unbiased**; ε is added outside) are over the fan-in of output unit o: ``in / groups`` and the kernel,
    for convolutions of any rank; ``in`` for Linear; ``in / groups`` and the kernel for transposed convolutions,
    whose units are (group, dimension 1). Computed in fp32 (fp64 for fp64), returned in the weight's dtype; gradients
    flow through μ and σ. No parameters; the same in training and evaluation, so `bake` can write it out.

    Use it before a normalization layer: the variance is 1, not 1 / fan-in, so the outputs grow with the fan-in.
    A unit whose weights are all equal becomes 0, with a finite gradient (large: ∝ 1 / ε).

    Raises TypeError for modules of other classes, ValueError for a fan-in of 1, whose deviation is undefined.

    Source: Qiao et al. 2019, arXiv:1903.10520.

    >>> conv = weight_standardization(nn.Conv2d(4, 8, 3))
    >>> torch.allclose(conv.weight.flatten(1).std(1), torch.ones(8), atol=1e-3)
    True
    """
    check_layer(module, "weight_standardization")
    weight = weight_of(module, name, "weight_standardization")
    check_floating(weight, f"weight_standardization({name!r})")
    fan_in = FanIn.of(module)
    check_fan_in(fan_in.size(weight), "weight_standardization")
    return parametrized(module, name, WeightStandardization(fan_in, eps))


def scaled_weight_standardization(
    module: AnyModule,
    name: str = "weight",
    gain: bool = True,
    gamma: float | str = 1.0,
    eps: float = 1e-4,
) -> AnyModule:
    r"""Give each output unit's weights mean 0 and variance 1 / fan-in: the weights of normalizer-free networks.

    .. math:: \bar W_o = \gamma\, g_o\, \frac{W_o - \mu_o}{\sqrt{\max(\sigma_o^2 \cdot \text{fan-in},\ \epsilon)}}

    μ and σ² (**biased**) are over the fan-in of output unit o, as in `weight_standardization`. ε is a **floor**, not
    an addition: it changes nothing unless the variance is below ε / fan-in, and ``eps=0`` switches it off (a unit whose
    weights are all equal becomes 0). ``gain`` adds a parameter g ``[out]``,
    initially 1 (``module.parametrizations.weight[0].gain``): apply this before building the optimizer. ``gamma``
    is the gain of the nonlinearity before the layer, a number or an activation's name such as ``"relu"`` (the
    official code has it in the activation, hence 1 here). Precision, axes and errors: as `weight_standardization`.

    The paper's formula exactly, ``γ (W - μ) / (σ √N)`` with ReLU's ``γ = √2 / √(1 - 1/π)``, is
    ``scaled_weight_standardization(module, gain=False, gamma="relu", eps=0.0)``.

    Source: Brock, De and Smith 2021, arXiv:2101.08692.

    >>> conv = scaled_weight_standardization(nn.Conv2d(4, 8, 3), gamma="relu")
    >>> x = torch.randn(64, 4, 12, 12).relu()                            # outputs of an activation
    >>> bool((conv(x).var(dim=(0, 2, 3)) - 1).abs().mean() < 0.15)       # have unit variance after it
    True
    """
    check_layer(module, "scaled_weight_standardization")
    weight = weight_of(module, name, "scaled_weight_standardization")
    check_floating(weight, f"scaled_weight_standardization({name!r})")
    fan_in = FanIn.of(module)
    check_fan_in(fan_in.size(weight), "scaled_weight_standardization")
    norm = ScaledWeightStandardization(fan_in, eps, nonlinearity_gain(gamma))
    if gain:
        norm.gain = nn.Parameter(weight.new_ones(fan_in.units(weight)))
    return parametrized(module, name, norm)


class WeightStandardization(nn.Module):
    """The parametrization that `weight_standardization` registers."""

    def __init__(self, fan_in: FanIn, eps: float) -> None:
        super().__init__()
        self.fan_in, self.eps = fan_in, eps

    def forward(self, weight: Tensor) -> Tensor:
        return standardize(weight, self.fan_in, self.eps)

    def right_inverse(self, weight: Tensor) -> Tensor:
        """Make ``module.weight = ...`` set the weight before standardization."""
        return weight

    def extra_repr(self) -> str:
        return f"eps={self.eps}"


class ScaledWeightStandardization(nn.Module):
    """The parametrization that `scaled_weight_standardization` registers; ``gain`` is None or ``[out]``."""

    gain: nn.Parameter | None

    def __init__(self, fan_in: FanIn, eps: float, gamma: float) -> None:
        super().__init__()
        self.fan_in, self.eps, self.gamma = fan_in, eps, gamma
        self.register_parameter("gain", None)

    def reset_parameters(self) -> None:
        """Set the gain to 1."""
        if self.gain is not None:
            nn.init.ones_(self.gain)

    def forward(self, weight: Tensor) -> Tensor:
        return scaled_standardize(weight, self.gain, self.fan_in, self.eps, self.gamma)

    def right_inverse(self, weight: Tensor) -> Tensor:
        """Make ``module.weight = ...`` set the weight before standardization."""
        return weight

    def extra_repr(self) -> str:
        return f"gain={self.gain is not None}, gamma={self.gamma:.6g}, eps={self.eps}"


def nonlinearity_gain(gamma: float | str) -> float:
    """The number itself, or the gain of an activation by its name."""
    return activations.gain(gamma) if isinstance(gamma, str) else float(gamma)


def standardize(weight: Tensor, fan_in: FanIn, eps: float) -> Tensor:
    """(W - mean) / (unbiased deviation + eps) over the fan-in; a constant unit gives 0."""
    check_floating(weight, "weight_standardization")
    check_memory(weight)
    blocks = fan_in.blocks(weight.to(computing_dtype(weight)))
    axes = fan_in.axes(blocks)
    centered = blocks - blocks.mean(axes, keepdim=True)
    variance = centered.square().sum(axes, keepdim=True) / (fan_in.size(weight) - 1)
    # The square root has no derivative at 0; there the unit is 0 whatever it is divided by.
    varies = variance > 0
    deviation = torch.where(varies, torch.where(varies, variance, 1.0).sqrt(), 0.0)
    return guarded((centered / (deviation + eps)).reshape(weight.shape).to(weight.dtype), weight)


def scaled_standardize(weight: Tensor, gain: Tensor | None, fan_in: FanIn, eps: float, gamma: float) -> Tensor:
    """gamma * gain * (W - mean) / sqrt(max(biased variance * fan-in, eps)) over the fan-in."""
    check_floating(weight, "scaled_weight_standardization")
    check_optional("scaled_weight_standardization", weight, (fan_in.units(weight),), gain=gain)
    check_memory(weight, gain)
    blocks = fan_in.blocks(weight.to(computing_dtype(weight)))
    axes = fan_in.axes(blocks)
    centered = blocks - blocks.mean(axes, keepdim=True)
    energy = centered.square().sum(axes, keepdim=True)  # variance times fan-in
    floored = energy.clamp_min(eps)
    # Without a floor a constant unit is 0 whatever the factor is.
    scale = gamma * torch.where(floored > 0, floored, 1.0).rsqrt()
    if gain is not None:
        scale = scale * fan_in.per_unit(gain.to(scale.dtype), blocks)
    return guarded((centered * scale).reshape(weight.shape).to(weight.dtype), weight, gain)
