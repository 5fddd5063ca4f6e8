"""Plain convolutions with the same tensors, which `torch.jit.script` compiles instead of the standardizing ones."""

# TorchScript needs attributes without annotations, so the type checker knows nothing of them.
# pyright: reportAttributeAccessIssue=false, reportCallIssue=false, reportOptionalOperand=false

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class _Scripted:
    """``forward`` with the standardized weight, in fp32 (fp64)."""

    def forward(self, input: Tensor) -> Tensor:
        weight = self.weight if self.weight.dtype == torch.float64 else self.weight.float()
        units = weight.flatten(1)
        centered = units - units.mean(1, keepdim=True)
        energy = centered.square().sum(1, keepdim=True)
        if self.scaled:
            centered = centered * (self.gamma * energy.clamp_min(self.eps).rsqrt())
            if self.gain is not None:
                centered = centered * self.gain.to(weight.dtype).unsqueeze(1)
        else:
            varies = energy > 0  # the square root has no derivative at 0
            deviation = torch.where(varies, energy / (units.size(1) - 1), torch.ones_like(energy)).sqrt()
            centered = centered / (torch.where(varies, deviation, torch.zeros_like(energy)) + self.eps)
        return self._conv_forward(input, centered.view_as(weight).to(self.weight.dtype), self.bias)


class ScriptedConv1d(_Scripted, nn.Conv1d):
    pass


class ScriptedConv2d(_Scripted, nn.Conv2d):
    pass


class ScriptedConv3d(_Scripted, nn.Conv3d):
    pass


def scripted(conv: nn.Module) -> nn.Module:
    """The plain convolution that replaces a `WSConvNd` or `ScaledWSConvNd`."""
    classes = (ScriptedConv1d, nn.Conv1d), (ScriptedConv2d, nn.Conv2d), (ScriptedConv3d, nn.Conv3d)
    cls: Any = next(cls for cls, plain in classes if isinstance(conv, plain))
    module = cls.__new__(cls)
    module.__dict__.update(vars(conv))
    module.__dict__["stands_for"] = (conv,)
    module.scaled = hasattr(conv, "gamma")
    module.gamma = getattr(conv, "gamma", 1.0)
    if not module.scaled:
        module._parameters = {**conv._parameters, "gain": None}
    return module
