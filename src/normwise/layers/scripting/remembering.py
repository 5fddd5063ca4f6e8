"""Stand-ins for layers with running statistics."""

# TorchScript needs attributes without annotations, so the type checker knows nothing of them.
# pyright: reportCallIssue=false, reportOperatorIssue=false, reportArgumentType=false, reportOptionalOperand=false

from __future__ import annotations

from typing import Any, Optional

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .scripted import Scripted, affine, over_space, positions, wide, wide_or_none


class _Remembering(Scripted):
    """A stand-in with running statistics, which training updates unless they are frozen."""

    def __init__(self, layer: Any) -> None:
        super().__init__(layer)
        self.eps, self.frozen = layer.eps, layer.policy.frozen
        self.cumulative, self.momentum = layer.momentum is None, layer.momentum or 0.0

    def trains(self) -> bool:
        return self.training and not self.frozen

    def counted(self) -> float:
        """The weight of this batch; in training the batch is also counted."""
        if self.trains() and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
            if self.cumulative:
                return 1.0 / float(self.num_batches_tracked)
        return self.momentum


class ScriptedBatchNorm(_Remembering):
    """Batch normalization of any rank; evaluation alone for a layer whose formula in training is another."""

    def __init__(self, layer: Any) -> None:
        super().__init__(layer)
        self.only_evaluates = layer.process_group is not None or "training" not in layer.plain_in

    def forward(self, input: Tensor, residual: Optional[Tensor] = None) -> Tensor:  # noqa: UP045  # TorchScript
        x = wide(input)
        if self.trains() and self.only_evaluates:
            raise RuntimeError("In TorchScript this layer only evaluates; call eval(), or train the model in Python.")
        by_batch, factor = self.trains() or self.running_mean is None, self.counted()
        weight, bias = wide_or_none(self.weight, x), wide_or_none(self.bias, x)
        y = F.batch_norm(x, self.running_mean, self.running_var, weight, bias, by_batch, factor, self.eps)
        return self.finished(y, residual, input)


class ScriptedInstanceNorm(_Remembering):
    """Instance normalization; a sample without a batch dimension is treated as a batch of one."""

    def __init__(self, layer: Any) -> None:
        super().__init__(layer)
        self.rank = layer.rank

    def forward(self, input: Tensor, residual: Optional[Tensor] = None) -> Tensor:  # noqa: UP045  # TorchScript
        alone = input.dim() == self.rank + 1
        x = wide(input.unsqueeze(0) if alone else input)
        by_input, factor = self.trains() or self.running_mean is None, self.counted()
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
            raise RuntimeError("In TorchScript this layer only evaluates; call eval(), or train the model in Python.")
        x = wide(input)
        own = over_space(torch.sqrt(positions(x).var(2, unbiased=False) + self.eps), x)
        batch = over_space(torch.sqrt(self.running_var.to(x.dtype) + self.eps), x)
        y = x / torch.maximum(batch, over_space(self.v.to(x.dtype), x) * x + own)
        return self.finished(affine(y, self.weight, self.bias), residual, input)


class ScriptedIBN(nn.Module):
    """Both parts of an IBN as their own stand-ins; ``forward(input, residual=None)``."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.first, self.IN, self.BN = layer.first, layer.IN, layer.BN
        self.__dict__["stands_for"] = (layer,)
        self.train(layer.training)

    def forward(self, input: Tensor, residual: Optional[Tensor] = None) -> Tensor:  # noqa: UP045  # TorchScript
        if residual is None:
            return torch.cat([self.IN(input[:, : self.first]), self.BN(input[:, self.first :])], 1)
        instances = self.IN(input[:, : self.first], residual[:, : self.first])
        return torch.cat([instances, self.BN(input[:, self.first :], residual[:, self.first :])], 1)
