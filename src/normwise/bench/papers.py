"""The papers' equations in straightforward PyTorch, against which layers that torch lacks are timed.

In fp64 they are also the oracle of these layers. Parameters and buffers are named as in `normwise.layers`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MOMENTUM = 0.1


class _Paper(nn.Module):
    """γ = 1, β = 0, and with ``tracked`` the running mean 0 and variance 1."""

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int, eps: float = 1e-5, *, tracked: bool = False) -> None:
        super().__init__()
        self.eps = eps
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))
        if tracked:
            self.register_buffer("running_mean", torch.zeros(channels))
            self.register_buffer("running_var", torch.ones(channels))

    def affine(self, x: Tensor) -> Tensor:
        return x * over_space(self.weight, x) + over_space(self.bias, x)

    def remember(self, mean: Tensor, var: Tensor, count: int) -> None:
        with torch.no_grad():
            self.running_mean.lerp_(mean.flatten().to(self.running_mean.dtype), MOMENTUM)
            unbiased = var.flatten() * (count / max(count - 1, 1))
            self.running_var.lerp_(unbiased.to(self.running_var.dtype), MOMENTUM)


def over_space(parameter: Tensor, x: Tensor) -> Tensor:
    """A value per channel in a shape that broadcasts against ``x[N, C, *space]``."""
    return parameter.view(-1, *[1] * (x.dim() - 2))


def _space(x: Tensor) -> list[int]:
    return list(range(2, x.dim()))


def _batch_moments(x: Tensor) -> tuple[Tensor, Tensor]:
    axes = [0, *_space(x)]
    return x.mean(axes, keepdim=True), x.var(axes, correction=0, keepdim=True)


class SwitchableNorm(_Paper):
    """Luo et al. 2018, arXiv:1806.10779, equations 3 to 5: the three statistics, computed from the instance's."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, tracked=True)
        self.mean_weight, self.var_weight = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))

    def forward(self, x: Tensor) -> Tensor:
        mean_in = x.mean(_space(x), keepdim=True)
        var_in = x.var(_space(x), correction=0, keepdim=True)
        square = var_in + mean_in**2
        mean_ln, mean_bn = mean_in.mean(1, keepdim=True), mean_in.mean(0, keepdim=True)
        var_ln = square.mean(1, keepdim=True) - mean_ln**2
        var_bn = square.mean(0, keepdim=True) - mean_bn**2
        self.remember(mean_bn, var_bn, x.numel() // x.shape[1])
        of_mean, of_var = self.mean_weight.softmax(0), self.var_weight.softmax(0)
        mean = of_mean[0] * mean_in + of_mean[1] * mean_ln + of_mean[2] * mean_bn
        var = of_var[0] * var_in + of_var[1] * var_ln + of_var[2] * var_bn
        return self.affine((x - mean) / (var + self.eps).sqrt())


class BatchInstanceNorm(_Paper):
    """Nam and Kim 2018, arXiv:1805.07925, equation 4: both normalizations, then the mixture."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, tracked=True)
        self.gate = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        by_batch = F.batch_norm(x, self.running_mean, self.running_var, None, None, True, MOMENTUM, self.eps)
        by_instance = F.instance_norm(x, eps=self.eps)
        gate = over_space(self.gate.clamp(0, 1), x)
        return self.affine(gate * by_batch + (1 - gate) * by_instance)


class BatchRenorm(_Paper):
    """Ioffe 2017, arXiv:1702.03275, algorithm 1, with constant limits."""

    def __init__(self, channels: int, r_max: float, d_max: float) -> None:
        super().__init__(channels, tracked=True)
        self.r_max, self.d_max = r_max, d_max

    def forward(self, x: Tensor) -> Tensor:
        mean, var = _batch_moments(x)
        std = (var + self.eps).sqrt()
        running_std = (over_space(self.running_var, x) + self.eps).sqrt()
        r = (std.detach() / running_std).clamp(1 / self.r_max, self.r_max)
        d = ((mean.detach() - over_space(self.running_mean, x)) / running_std).clamp(-self.d_max, self.d_max)
        y = self.affine((x - mean) / std * r + d)
        self.remember(mean, var, x.numel() // x.shape[1])
        return y


class FilterResponseNorm(_Paper):
    """Singh and Krishnan 2019, arXiv:1911.09737, equations 1 to 3, with the thresholded linear unit."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=1e-6)
        self.tau = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        return torch.maximum(self._before_threshold(x), over_space(self.tau, x))

    def _before_threshold(self, x: Tensor) -> Tensor:
        square = x.pow(2).mean(_space(x), keepdim=True)
        return self.affine(x * torch.rsqrt(square + self.eps))

    def distance_to_kink(self, x: Tensor) -> Tensor:
        return self._before_threshold(x) - over_space(self.tau, x)


class GlobalResponseNorm(_Paper):
    """Woo et al. 2023, arXiv:2301.00808, algorithm 1, on maps."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        norm = x.pow(2).sum(_space(x), keepdim=True).sqrt()
        return self.affine(x * (norm / (norm.mean(1, keepdim=True) + self.eps))) + x


class EvoNormB0(_Paper):
    """Liu et al. 2020, arXiv:2004.02967, table 2."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, tracked=True)
        self.v = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        return self.affine(x / torch.maximum(*self._scales(x)))

    def _scales(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mean, var = _batch_moments(x)
        self.remember(mean, var, x.numel() // x.shape[1])
        instance = (x.var(_space(x), correction=0, keepdim=True) + self.eps).sqrt()
        return (var + self.eps).sqrt(), over_space(self.v, x) * x + instance

    def distance_to_kink(self, x: Tensor) -> Tensor:
        batch, own = self._scales(x)
        return own - batch


class EvoNormS0(_Paper):
    """Liu et al. 2020, arXiv:2004.02967, table 2."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__(channels)
        self.v, self.groups = nn.Parameter(torch.ones(channels)), groups

    def forward(self, x: Tensor) -> Tensor:
        grouped = x.reshape(x.shape[0], self.groups, -1)
        std = (grouped.var(2, correction=0, keepdim=True) + self.eps).sqrt()
        gated = (x * torch.sigmoid(over_space(self.v, x) * x)).reshape(grouped.shape)
        return self.affine((gated / std).reshape(x.shape))
