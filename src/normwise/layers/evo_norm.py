"""EvoNorm: normalization and activation in one formula, found by evolutionary search."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from normwise.core import formulas
from normwise.core.arguments import check_input
from normwise.core.bound import bound
from normwise.core.formulas import Formula
from normwise.core.moments import Moments
from normwise.core.numbers import check_groups, check_whole
from normwise.core.processes import ProcessGroup
from normwise.core.running import RunningStatistics
from normwise.core.single_value import check_values_per_group
from normwise.core.symbols import as_node, is_symbol
from normwise.core.tables import check_optional, check_required
from normwise.operations.normalize import run_for_y
from normwise.operations.request import Request
from normwise.operations.request import check as check_request

from ._shared import ChannelLayer
from .batch_layer import BatchLayer, pooled
from .scripting import ScriptedEvoNormB0, ScriptedEvoNormS0


class EvoNormB0(BatchLayer):
    r"""EvoNorm-B0 of ``[N, C, *space]``: normalization by the larger of two scales, which is also the activation.

    .. math:: y = f\left(\gamma\,\frac{x}{\max\left(\sqrt{\sigma_c^2 + \epsilon},\ v x + \sqrt{\sigma_{nc}^2 + \epsilon}
              \right)} + \beta + \text{residual}\right)

    σ_c² (**biased**) is pooled over N and space, the running variance in evaluation; σ_nc² (**biased**) over space,
    always the input's. v is learned for each channel and starts at 1. Put no ReLU behind the layer.

    Args, ``forward``, errors, policies and buffers: as in `BatchNorm2d`, for any space. ``running_mean`` takes no part
    in the output; it is kept because all layers with running statistics have the same buffers.

    Source: Liu et al. 2020, arXiv:2004.02967, after the authors' TPU code. It remembers the biased variance; here
    ``running_var`` is updated with the **unbiased** one, as everywhere in this package, since evaluation needs the
    variance of the data and not of a small batch. Their ``nonlinearity=False`` (a plain γ x + β, nothing normalized) is
    not offered.

    The trap: the mean is not subtracted; at mean/std = 1000 the output is of size 1000.

    >>> x = torch.randn(4, 3, 8, 8)
    >>> layer = EvoNormB0(3)
    >>> _ = nn.init.constant_(layer.v, -100.0)       # for x > 0 the first scale is the larger one: BatchNorm's
    >>> expected = x / (x.var((0, 2, 3), correction=0).view(1, 3, 1, 1) + 1e-5).sqrt()
    >>> torch.allclose(layer(x)[x > 0.1], expected[x > 0.1])
    True
    """

    rank = 0

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device: Any = None,
        dtype: torch.dtype | None = None,
        **options: Any,
    ) -> None:
        super().__init__(num_features, eps, momentum, affine, track_running_stats, device, dtype, **options)
        self.v = nn.Parameter(torch.ones(num_features, device=device, dtype=dtype))

    def reset_parameters(self) -> None:
        super().reset_parameters()
        if "v" in self._parameters:  # it does not exist yet when torch's constructor calls this method
            nn.init.ones_(self.v)

    def _check_tensors(self, x: Tensor, running: RunningStatistics | None) -> None:
        super()._check_tensors(x, running)
        check_required(self, x, (self.num_features,), v=self.v)

    def _by_batch(self, x: Tensor, mask: Tensor | None, group: ProcessGroup | None) -> Formula:
        return pooled(formulas.evo_norm_b0, group, eps=self._eps)

    def _by_running(self, x: Tensor, running: RunningStatistics) -> tuple[Formula, Moments | None]:
        self._check_before(x)
        return partial(formulas.evo_norm_b0, eps=self._eps, known=running.moments()), None

    def _tensors(self) -> tuple[Tensor | None, ...]:
        return self.weight, self.bias, self.v

    def _scripted(self) -> nn.Module:
        return ScriptedEvoNormB0(self) if self.running_mean is not None else super()._scripted()

    def _check_input_dim(self, input: Tensor) -> None:
        check_input(input, type(self).__name__)
        self._check(input, dims=(input.dim(),), channel=1)


class EvoNormS0(ChannelLayer):
    r"""EvoNorm-S0 of ``[N, C, *space]``: a gated response over the standard deviation of its group of channels.

    .. math:: y = f\left(\gamma\,\frac{x\,\operatorname{sigmoid}(v x)}{\sqrt{\sigma_{ng}^2 + \epsilon}} + \beta
              + \text{residual}\right)

    σ_ng² (**biased**) is pooled over space and the neighbouring channels of a group, as in `GroupNorm`; x itself is
    not centered. v is learned for each channel and starts at 1. Training and evaluation are the same. Put no ReLU
    behind the layer.

    Args: ``num_features`` C; ``num_groups``, None for the largest divisor of C up to 32; ``eps`` (inside the root),
    ``affine``, ``device``, ``dtype``. Keyword only: ``bias``, ``activation``.

    ``forward(x, residual=None, mask=None, lengths=None)`` as in `GroupNorm`.

    Raises ValueError where the groups do not divide the channels, the input has other channels, or a group holds a
    single value (the output would be x·sigmoid(v x)/√ε).

    Source: Liu et al. 2020, arXiv:2004.02967, after the authors' TPU code.

    >>> EvoNormS0(48).num_groups
    24
    >>> x = torch.randn(2, 6, 4, 4)
    >>> std = (x.view(2, 3, -1).var(-1, correction=0) + 1e-5).sqrt().repeat_interleave(2, 1).view(2, 6, 1, 1)
    >>> torch.allclose(EvoNormS0(6, 3)(x), nn.functional.silu(x) / std, atol=1e-6)
    True
    """

    rank = 0
    weight: nn.Parameter | None
    bias: nn.Parameter | None
    v: nn.Parameter

    def __init__(
        self,
        num_features: int,
        num_groups: int | None = None,
        eps: float = 1e-5,
        affine: bool = True,
        device: Any = None,
        dtype: torch.dtype | None = None,
        *,
        bias: bool = True,
        activation: str | None = None,
    ) -> None:
        super().__init__()
        check_whole(self, "num_features", num_features, 1)
        if num_groups is None:
            num_groups = max(d for d in range(1, min(num_features, 32) + 1) if num_features % d == 0)
        check_groups(self, num_groups, num_features)
        self.num_features, self.num_groups, self.eps, self.affine = num_features, num_groups, eps, affine
        self._set_activation(activation)
        for name, wanted in (("weight", affine), ("bias", affine and bias), ("v", True)):
            parameter = nn.Parameter(torch.empty(num_features, device=device, dtype=dtype)) if wanted else None
            self.register_parameter(name, parameter)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        for name, parameter in self.named_parameters():
            nn.init.constant_(parameter, 0.0 if name == "bias" else 1.0)

    def forward(
        self,
        x: Tensor,
        residual: Tensor | None = None,
        mask: Tensor | None = None,
        lengths: Tensor | None = None,
    ) -> Tensor:
        if (type(x) is not Tensor or residual is not None) and is_symbol(x, residual):
            return as_node(self, x, residual, mask, lengths)
        mask = self._mask(x, mask, lengths)
        formula = bound(formulas.evo_norm_s0, groups=self.num_groups, eps=self._eps)
        tensors, asker = (self.weight, self.bias, self.v), (type(self), self.num_features)
        return run_for_y(
            Request(x, formula, tensors, self.activation, residual, mask, asker=asker), self._check_request
        )

    def _scripted(self) -> nn.Module:
        return ScriptedEvoNormS0(self)

    def _check_request(self, request: Request) -> None:
        x = request.x
        check_input(x, "EvoNormS0")
        self._check(x, dims=(x.dim(),), channel=1)
        check_optional(self, x, (self.num_features,), weight=self.weight, bias=self.bias)
        check_required(self, x, (self.num_features,), v=self.v)
        check_groups(self, self.num_groups, self.num_features)
        check_values_per_group(self, x, self.num_features // self.num_groups)
        check_request(request)

    def extra_repr(self) -> str:
        shown = f"{self.num_features}, num_groups={self.num_groups}, eps={self.eps}, affine={self.affine}"
        return f"{shown}{super().extra_repr()}"
