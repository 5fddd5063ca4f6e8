"""Stand-ins with running statistics."""

# TorchScript wants attributes without annotations, of which nothing is known here.
# pyright: reportCallIssue=false, reportOperatorIssue=false, reportArgumentType=false, reportOptionalOperand=false

from __future__ import annotations

from typing import Any, Optional

import torch
import torch.nn.functional as F
from torch import Tensor

from .scripted import Scripted, wide, wide_or_none


class ScriptedBatchNorm(Scripted):
    """Batch normalization, of any rank; of a layer with another formula in training the evaluation alone."""

    def __init__(self, layer: Any) -> None:
        super().__init__(layer)
        self.eps, self.frozen = layer.eps, layer.policy.frozen
        self.cumulative, self.momentum = layer.momentum is None, layer.momentum or 0.0
        self.only_evaluates = layer.process_group is not None or "training" not in layer.plain_in

    def forward(self, input: Tensor, residual: Optional[Tensor] = None) -> Tensor:  # noqa: UP045  # TorchScript
        x = wide(input)
        trains = self.training and not self.frozen
        if trains and self.only_evaluates:
            raise RuntimeError("In TorchScript this layer only evaluates; call eval(), or train the model of Python.")
        factor = self.momentum
        if trains and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
            if self.cumulative:
                factor = 1.0 / float(self.num_batches_tracked)
        by_batch = trains or self.running_mean is None
        weight, bias = wide_or_none(self.weight, x), wide_or_none(self.bias, x)
        y = F.batch_norm(x, self.running_mean, self.running_var, weight, bias, by_batch, factor, self.eps)
        return self.finished(y, residual, input)


class ScriptedInstanceNorm(Scripted):
    """Instance normalization; a sample without a batch dimension is one of a batch of one."""

    def __init__(self, layer: Any) -> None:
        super().__init__(layer)
        self.eps, self.rank, self.frozen = layer.eps, layer.rank, layer.policy.frozen
        self.cumulative, self.momentum = layer.momentum is None, layer.momentum or 0.0

    def forward(self, input: Tensor, residual: Optional[Tensor] = None) -> Tensor:  # noqa: UP045  # TorchScript
        alone = input.dim() == self.rank + 1
        x = wide(input.unsqueeze(0) if alone else input)
        trains, factor = self.training and not self.frozen, self.momentum
        if trains and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
            if self.cumulative:
                factor = 1.0 / float(self.num_batches_tracked)
        by_input = trains or self.running_mean is None
        weight, bias = wide_or_none(self.weight, x), wide_or_none(self.bias, x)
        y = F.instance_norm(x, self.running_mean, self.running_var, weight, bias, by_input, factor, self.eps)
        return self.finished(y.squeeze(0) if alone else y, residual, input)


class ScriptedEvoNormB0(Scripted):
    """EvoNorm-B0 in evaluation."""

    def __init__(self, layer: Any) -> None:
        super().__init__(layer)
        self.eps = layer.eps

    def forward(self, input: Tensor, residual: Optional[Tensor] = None) -> Tensor:  # noqa: UP045  # TorchScript
        if self.training:
            raise RuntimeError("In TorchScript this layer only evaluates; call eval(), or train the model of Python.")
        x = wide(input)
        shape = [1, -1] + [1] * (x.dim() - 2)
        own = torch.sqrt(x.flatten(2).var(2, unbiased=False) + self.eps).view(x.shape[:2] + shape[2:])
        batch = torch.sqrt(self.running_var.to(x.dtype) + self.eps).view(shape)
        y = x / torch.maximum(batch, self.v.to(x.dtype).view(shape) * x + own)
        if self.weight is not None:
            y = y * self.weight.view(shape)
        if self.bias is not None:
            y = y + self.bias.view(shape)
        return self.finished(y, residual, input)
