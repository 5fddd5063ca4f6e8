"""Stand-ins of positional normalization and of the shortcut of its moments."""

# TorchScript needs attributes without annotations, so the type checker knows nothing of them.
# pyright: reportCallIssue=false, reportOperatorIssue=false, reportArgumentType=false

from __future__ import annotations

from typing import Any, Optional

import torch
from torch import Tensor, nn

from .scripted import Scripted, wide


class ScriptedPositionalNorm(Scripted):
    def __init__(self, layer: Any) -> None:
        super().__init__(layer)
        self.eps = layer.eps

    def forward(self, input: Tensor, residual: Optional[Tensor] = None) -> Tensor:  # noqa: UP045  # TorchScript
        mean, std = self.moments(input)
        return self.finished((wide(input) - mean) / std, residual, input)

    def moments(self, input: Tensor) -> tuple[Tensor, Tensor]:
        x = wide(input)
        return x.mean(1, keepdim=True), torch.sqrt(x.var(1, unbiased=True, keepdim=True) + self.eps)


class ScriptedPositionalNormWithMoments(ScriptedPositionalNorm):
    """``return_moments=True``: ``(y, mean, std)``."""

    def forward(  # type: ignore[override]
        self,
        input: Tensor,
        residual: Optional[Tensor] = None,  # noqa: UP045  # TorchScript
    ) -> tuple[Tensor, Tensor, Tensor]:
        mean, std = self.moments(input)
        y = self.finished((wide(input) - mean) / std, residual, input)
        return y, mean.to(input.dtype), std.to(input.dtype)


class ScriptedMomentShortcut(nn.Module):
    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.__dict__["stands_for"] = (layer,)

    def forward(self, x: Tensor, mean: Tensor, std: Tensor) -> Tensor:
        return (wide(x) * std.to(wide(x).dtype) + mean.to(wide(x).dtype)).to(x.dtype)
