"""Stand-ins of layers whose affine map is predicted from a condition, or gated."""

# TorchScript needs attributes without annotations, so the type checker knows nothing of them.
# pyright: reportCallIssue=false, reportOperatorIssue=false, reportArgumentType=false, reportOptionalOperand=false

from __future__ import annotations

from typing import Any, Optional

import torch
import torch.nn.functional as F
from torch import Tensor

from .scripted import Scripted, root_mean_square_normalized, wide


class ScriptedModulated(Scripted):
    """AdaptiveLayerNorm and AdaptiveRMSNorm; ``forward(x, condition, residual=None)``."""

    def __init__(self, layer: Any, *, center: bool) -> None:
        super().__init__(layer)
        self.linear = layer.linear
        self.shape, self.center = [int(layer.num_features)], center
        self.eps = -1.0 if layer.eps is None else layer.eps

    def forward(self, x: Tensor, condition: Tensor, residual: Optional[Tensor] = None) -> Tensor:  # noqa: UP045
        return self.modulated(x, self.projected(x, condition), residual)

    def projected(self, x: Tensor, condition: Tensor) -> Tensor:
        """Shift, scale and, if there is one, the gate: ``[..., 2 or 3 times C]``."""
        widest = torch.promote_types(torch.promote_types(x.dtype, condition.dtype), self.linear.weight.dtype)
        weight, bias = self.linear.weight.to(widest), self.linear.bias.to(widest)
        return F.linear(F.silu(condition.to(widest)), weight, bias)

    def modulated(self, x: Tensor, projected: Tensor, residual: Optional[Tensor]) -> Tensor:  # noqa: UP045
        rows = wide(x)
        for _ in range(x.dim() - projected.dim()):
            projected = projected.unsqueeze(1)
        parts = projected.to(rows.dtype).split(self.shape[0], -1)
        if self.center:
            y = F.layer_norm(rows, self.shape, None, None, self.eps)
        else:
            y = root_mean_square_normalized(rows, [-1], self.eps)
        return self.finished(y * (1 + parts[1]) + parts[0], residual, x)


class ScriptedModulatedWithGate(ScriptedModulated):
    """As `ScriptedModulated`, with ``gate=True``: ``(y, gate)``."""

    def forward(  # type: ignore[override]
        self,
        x: Tensor,
        condition: Tensor,
        residual: Optional[Tensor] = None,  # noqa: UP045  # TorchScript
    ) -> tuple[Tensor, Tensor]:
        projected = self.projected(x, condition)
        gate = projected.split(self.shape[0], -1)[2]
        for _ in range(x.dim() - gate.dim()):
            gate = gate.unsqueeze(1)
        return self.modulated(x, projected, residual), gate


class ScriptedGatedRMSNorm(Scripted):
    """``forward(x, gate=None, residual=None)``."""

    def __init__(self, layer: Any) -> None:
        super().__init__(layer)
        self.groups = layer.num_features // (layer.group_size or layer.num_features)
        self.eps = -1.0 if layer.eps is None else layer.eps
        self.norm_before_gate = layer.norm_before_gate

    def forward(
        self,
        x: Tensor,
        gate: Optional[Tensor] = None,  # noqa: UP045  # TorchScript
        residual: Optional[Tensor] = None,  # noqa: UP045
    ) -> Tensor:
        rows = wide(x)
        opened = torch.ones_like(rows) if gate is None else F.silu(gate.to(torch.promote_types(gate.dtype, rows.dtype)))
        if not self.norm_before_gate:
            rows = rows * opened
        groups = rows.reshape(-1, self.groups, x.shape[-1] // self.groups)
        y = root_mean_square_normalized(groups, [-1], self.eps).reshape(x.shape) * self.weight.to(rows.dtype)
        return self.finished(y * opened.to(y.dtype) if self.norm_before_gate else y, residual, x)
