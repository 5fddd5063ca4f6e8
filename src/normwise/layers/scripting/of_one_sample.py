"""Stand-ins for layers with the statistics of one sample, row or pixel, or without statistics."""

# TorchScript needs attributes without annotations, so the type checker knows nothing of them.
# pyright: reportCallIssue=false, reportOperatorIssue=false, reportArgumentType=false, reportOptionalOperand=false

from __future__ import annotations

from typing import Any, Optional

import torch
import torch.nn.functional as F
from torch import Tensor

from .scripted import Scripted, affine, over_space, positions, root_mean_square_normalized, wide, wide_or_none


class ScriptedGroupNorm(Scripted):
    def __init__(self, layer: Any) -> None:
        super().__init__(layer)
        self.eps, self.groups = layer.eps, layer.num_groups

    def forward(self, input: Tensor, residual: Optional[Tensor] = None) -> Tensor:  # noqa: UP045  # TorchScript
        x = wide(input)
        y = F.group_norm(x, self.groups, wide_or_none(self.weight, x), wide_or_none(self.bias, x), self.eps)
        return self.finished(y, residual, input)


class ScriptedRows(Scripted):
    """LayerNorm and RMSNorm of rows, and of the channels at each pixel."""

    def __init__(self, layer: Any, *, center: bool, pixels: bool) -> None:
        super().__init__(layer)
        self.shape = [int(size) for size in layer.normalized_shape]
        self.last = [-1 - i for i in range(len(self.shape))]
        self.eps = -1.0 if layer.eps is None else layer.eps
        self.center, self.pixels, self.zero_centered = center, pixels, layer.zero_centered
        if "bias" not in self._parameters:
            self.register_parameter("bias", None)

    def forward(self, input: Tensor, residual: Optional[Tensor] = None) -> Tensor:  # noqa: UP045  # TorchScript
        return self.finished(self.normalized(wide(input)), residual, input)

    def normalized(self, x: Tensor) -> Tensor:
        if self.pixels:
            x = x.movedim(1, -1)
        weight = wide_or_none(self.weight, x)
        if weight is not None and self.zero_centered:
            weight = 1 + weight
        if self.center:
            y = F.layer_norm(x, self.shape, weight, wide_or_none(self.bias, x), self.eps)
        else:
            y = root_mean_square_normalized(x, self.last, self.eps)
            if weight is not None:
                y = y * weight
        return y.movedim(-1, 1) if self.pixels else y


class ScriptedSums(ScriptedRows):
    """``add_first=True``: ``(y, x + residual)``."""

    def forward(  # type: ignore[override]
        self,
        input: Tensor,
        residual: Optional[Tensor] = None,  # noqa: UP045  # TorchScript
    ) -> tuple[Tensor, Tensor]:
        total = input if residual is None else (wide(input) + wide(residual)).to(input.dtype)
        return self.normalized(wide(total)).to(input.dtype), total


class ScriptedFilterResponseNorm(Scripted):
    def __init__(self, layer: Any) -> None:
        super().__init__(layer)
        self.eps = layer.eps

    def forward(self, input: Tensor, residual: Optional[Tensor] = None) -> Tensor:  # noqa: UP045  # TorchScript
        x = wide(input)
        power = over_space(positions(x.square()).mean(2), x)
        floor = torch.full([1], self.eps, dtype=x.dtype, device=x.device)
        if self.learned_eps is not None:
            floor = floor + self.learned_eps.abs()
        y = affine(x * torch.rsqrt(power + floor), self.weight, self.bias)
        if self.tau is not None:
            if residual is not None:
                y = y + residual
            return torch.maximum(y, over_space(self.tau.to(y.dtype), y)).to(input.dtype)
        return self.finished(y, residual, input)


class ScriptedGlobalResponseNorm(Scripted):
    def __init__(self, layer: Any) -> None:
        super().__init__(layer)
        self.eps = layer.eps

    def forward(self, input: Tensor, residual: Optional[Tensor] = None) -> Tensor:  # noqa: UP045  # TorchScript
        x = wide(input)
        squares = over_space(positions(x.square()).sum(2), x)
        positive = squares > 0
        # The root's slope at 0 is infinite.
        norm = torch.where(positive, torch.where(positive, squares, torch.ones_like(squares)).sqrt(), squares)
        y = x + over_space(self.weight, x) * x * (norm / (norm.mean(1, keepdim=True) + self.eps))
        return self.finished(affine(y, None, self.bias), residual, input)


class ScriptedEvoNormS0(Scripted):
    def __init__(self, layer: Any) -> None:
        super().__init__(layer)
        self.eps, self.groups = layer.eps, layer.num_groups

    def forward(self, input: Tensor, residual: Optional[Tensor] = None) -> Tensor:  # noqa: UP045  # TorchScript
        x = wide(input)
        var = x.view(x.shape[0], self.groups, -1).var(2, unbiased=False)
        scale = torch.rsqrt(var + self.eps).repeat_interleave(x.shape[1] // self.groups, 1)
        y = x * torch.sigmoid(over_space(self.v, x) * x) * over_space(scale, x)
        return self.finished(affine(y, self.weight, self.bias), residual, input)


class ScriptedSquash(Scripted):
    """DynamicTanh, and with a shift DynamicErf."""

    def __init__(self, layer: Any) -> None:
        super().__init__(layer)
        self.dim = layer.dim
        if "shift" not in self._parameters:
            self.register_parameter("shift", None)

    def forward(self, input: Tensor, residual: Optional[Tensor] = None) -> Tensor:  # noqa: UP045  # TorchScript
        x = wide(input)
        shape = [1] * x.dim()
        shape[self.dim] = -1
        z = self.alpha * x
        y = torch.tanh(z) if self.shift is None else torch.erf(z + self.shift)
        if self.weight is not None:
            y = y * self.weight.view(shape)
        if self.bias is not None:
            y = y + self.bias.view(shape)
        return self.finished(y, residual, input)
