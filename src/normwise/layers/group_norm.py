"""Statistics of one sample: instance and group normalization."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from normwise.core import formulas
from normwise.core.arguments import check_input
from normwise.core.bound import bound
from normwise.core.known import check_channels
from normwise.core.moments import Moments
from normwise.core.numbers import check_groups, check_momentum, check_whole
from normwise.core.running import Judge, RunningStatistics
from normwise.core.single_value import check_values_per_group
from normwise.core.symbols import as_node, is_symbol
from normwise.operations.normalize import run
from normwise.operations.recent import keep, run_and_keep
from normwise.operations.request import Request
from normwise.operations.request import check as check_request

from ._shared import FusedActivation, parameters_of, without_bias
from .running_layer import RunningLayer
from .scripting import ScriptedGroupNorm, ScriptedInstanceNorm


class _InstanceNorm(RunningLayer, nn.modules.instancenorm._InstanceNorm):
    """The base of `InstanceNorm1d`, 2d and 3d."""

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = False,
        track_running_stats: bool = False,
        device: Any = None,
        dtype: torch.dtype | None = None,
        *,
        bias: bool = True,
        activation: str | None = None,
        nonfinite: str = "skip",
        lean: bool = False,
    ) -> None:
        check_whole(self, "num_features", num_features, 0)
        check_momentum(self, momentum)
        super().__init__(num_features, eps, momentum, affine, track_running_stats, device, dtype)  # type: ignore[arg-type]
        if not bias:
            without_bias(self)
        self._set_activation(activation)
        self._set_policy(nonfinite, "error")
        self._set_lean(lean)

    def forward(  # type: ignore[override]
        self,
        input: Tensor,
        residual: Tensor | None = None,
        mask: Tensor | None = None,
        lengths: Tensor | None = None,
    ) -> Tensor:
        x = input
        if (type(x) is not Tensor or residual is not None) and is_symbol(x, residual):
            return as_node(self, x, residual, mask, lengths)
        if not isinstance(x, Tensor) or x.dim() != self.rank + 2:
            self._check_input_dim(x)
            batched = [None if t is None else t.unsqueeze(0) for t in (residual, mask, lengths)]
            return self(x.unsqueeze(0), *batched).squeeze(0)
        parameters, eps = parameters_of(self), self._eps
        numbers = self.num_features, eps, self.activation, self.lean
        alone = mask is None and lengths is None and not self.track_running_stats
        y = self._recent.run(numbers, x, residual, parameters) if alone else None
        if y is not None:
            return y
        if mask is not None or lengths is not None:
            mask = self._mask(x, mask, lengths)
        running = self.running_statistics() if self.track_running_stats else None
        known, check = None, self._check_request
        formula = bound(formulas.instance_norm, eps=eps)
        learning = running is not None and self.training and not self.policy.frozen
        if running is not None and not learning:
            formula, check = bound(formulas.standardized, eps=eps), self._check_tensors
            known = Moments(running.mean, running.var, 1)
        request = Request(
            x,
            formula,
            parameters,
            self.activation,
            residual,
            mask,
            known,
            measured=learning,
            beside=() if running is None else running[:3],
            asker=(type(self), self.num_features),
            lean=self.lean,
        )
        result = run(request, check)
        if alone:
            keep(self, numbers, request, result.way)
        if learning:
            self._remember(result)
        return result.y

    def _scripted(self) -> nn.Module:
        return ScriptedInstanceNorm(self)

    def _check_tensors(self, request: Request) -> None:
        running = self.running_statistics() if self.track_running_stats else None
        self._check_input_dim(request.x)
        check_channels(self, request.x, self.num_features, *parameters_of(self), running)
        check_request(request)

    def _check_request(self, request: Request) -> None:
        self._check_tensors(request)
        check_values_per_group(self, request.x, 1)

    def _update(self, running: RunningStatistics, statistics: Moments, judge: Judge) -> None:
        running.update_from_instances(statistics, judge)

    def _check_input_dim(self, input: Tensor) -> None:
        batched = isinstance(input, Tensor) and input.dim() == self.rank + 2
        self._check(input, dims=(self.rank + 1, self.rank + 2), channel=1 if batched else 0)


class InstanceNorm1d(_InstanceNorm, nn.InstanceNorm1d):
    r"""Instance normalization of ``[N, C, L]`` or ``[C, L]``: `torch.nn.InstanceNorm1d`, with a fused epilogue.

    .. math:: y = f\left(\gamma\,\frac{x - \mu_{nc}}{\sqrt{\sigma_{nc}^2 + \epsilon}} + \beta + \text{residual}\right)

    See `InstanceNorm2d`, whose arguments, errors and deviations are the same.

    >>> InstanceNorm1d(4)(torch.randn(8, 4, 9)).mean(-1).abs().max() < 1e-6
    tensor(True)
    """

    rank = 1


class InstanceNorm2d(_InstanceNorm, nn.InstanceNorm2d):
    r"""Instance normalization of ``[N, C, H, W]`` or ``[C, H, W]``: a drop-in for `torch.nn.InstanceNorm2d`.

    .. math:: y = f\left(\gamma\,\frac{x - \mu_{nc}}{\sqrt{\sigma_{nc}^2 + \epsilon}} + \beta + \text{residual}\right)

    μ and σ² (**biased**) are pooled over H and W for each sample and channel. As in torch, there is no γ and
    β unless ``affine=True``, and evaluation is the same as training unless ``track_running_stats=True``; then
    the buffers hold the average over the samples of their means and **unbiased** variances.

    Args: as torch's. Keyword only: ``activation`` names an activation applied last, such as ``"relu"``; ``lean`` as in
    `BatchNorm2d`.

    ``forward(input, residual=None, mask=None, lengths=None)``: ``residual``, of its shape, is added before the
    activation. ``mask`` is boolean, ``[N, *space]`` or ``[N, 1, *space]``: the statistics are those of the values where
    it is true; a sample without any is divided by √ε. ``lengths`` is an integer tensor ``[N]``: the mask of the first
    positions of sequences ``[N, C, L]``.

    Raises ValueError for a wrong number of dimensions or channels, and for planes of a single value, where
    the output would not depend on the input.

    Source: Ulyanov, Vedaldi and Lempitsky 2016, arXiv:1607.08022.

    Differs from torch where torch is silently wrong: channels_last input gives channels_last output (torch
    returns it contiguous); a wrong number of channels is an error without affine, too (torch warns);
    ``num_batches_tracked`` counts (torch's stays 0); ``momentum=None`` is a cumulative average (torch's
    never updates); and the buffers stay in fp32 as `BatchNorm2d`'s do.

    >>> x = torch.randn(2, 3, 8, 8)
    >>> contrast = torch.tensor([0.2, 5.0]).view(2, 1, 1, 1)          # "contrast normalization"
    >>> torch.allclose(InstanceNorm2d(3, eps=1e-9)(x * contrast), InstanceNorm2d(3, eps=1e-9)(x), atol=1e-5)
    True
    """

    rank = 2


class InstanceNorm3d(_InstanceNorm, nn.InstanceNorm3d):
    r"""Instance normalization of ``[N, C, D, H, W]`` or ``[C, D, H, W]``: `torch.nn.InstanceNorm3d`, fused epilogue.

    .. math:: y = f\left(\gamma\,\frac{x - \mu_{nc}}{\sqrt{\sigma_{nc}^2 + \epsilon}} + \beta + \text{residual}\right)

    See `InstanceNorm2d`, whose arguments, errors and deviations are the same.

    >>> x = torch.randn(1, 2, 3, 4, 5).to(memory_format=torch.channels_last_3d)
    >>> InstanceNorm3d(2)(x).is_contiguous(memory_format=torch.channels_last_3d)
    True
    """

    rank = 3


class GroupNorm(FusedActivation, nn.GroupNorm):
    r"""Group normalization of ``[N, C, *space]``: a drop-in for `torch.nn.GroupNorm`.

    .. math:: y = f\left(\gamma\,\frac{x - \mu_{ng}}{\sqrt{\sigma_{ng}^2 + \epsilon}} + \beta + \text{residual}\right)

    μ and σ² (**biased**) are pooled over space and the C/G neighbouring channels of each of the G groups; γ
    and β are per channel. ``G = C`` is instance normalization; ``G = 1`` normalizes like LayerNorm over
    (C, \*space), with γ and β per channel.

    Args: as torch's. Keyword only: ``activation`` names an activation applied last, such as ``"silu"``; ``lean`` as in
    `BatchNorm2d`.

    ``forward(input, residual=None, mask=None, lengths=None)``: as in `InstanceNorm2d`.

    Raises ValueError if the channels are not divisible by the groups, if the input has other channels,
    and for groups of a single value, where the output would not depend on the input.

    Source: Wu and He 2018, arXiv:1803.08494.

    Differs from torch where torch is silently wrong: one value per group is an error for every batch size
    (torch notices it only for a batch of one and otherwise returns the bias).

    >>> x = torch.randn(2, 6, 4, 4)
    >>> torch.allclose(GroupNorm(6, 6)(x), nn.InstanceNorm2d(6)(x), atol=1e-6)
    True
    >>> torch.allclose(GroupNorm(1, 6)(x), nn.LayerNorm([6, 4, 4])(x), atol=1e-6)
    True
    """

    def __init__(
        self,
        num_groups: int,
        num_channels: int,
        eps: float = 1e-5,
        affine: bool = True,
        device: Any = None,
        dtype: torch.dtype | None = None,
        *,
        bias: bool = True,
        activation: str | None = None,
        lean: bool = False,
    ) -> None:
        check_whole(self, "num_channels", num_channels, 0)
        check_groups(self, num_groups, num_channels)
        super().__init__(num_groups, num_channels, eps, affine, device, dtype)
        if not bias:
            without_bias(self)
        self._set_activation(activation)
        self._set_lean(lean)

    def forward(  # type: ignore[override]
        self,
        input: Tensor,
        residual: Tensor | None = None,
        mask: Tensor | None = None,
        lengths: Tensor | None = None,
    ) -> Tensor:
        if (type(input) is not Tensor or residual is not None) and is_symbol(input, residual):
            return as_node(self, input, residual, mask, lengths)
        parameters, groups, eps = parameters_of(self), self.num_groups, self._eps
        numbers = groups, self.num_channels, eps, self.activation, self.lean
        if mask is None and lengths is None:
            y = self._recent.run(numbers, input, residual, parameters)
            if y is not None:
                return y
        if mask is not None or lengths is not None:
            mask = self._mask(input, mask, lengths)
        formula = bound(formulas.group_norm, groups=groups, eps=eps)
        asker = (type(self), self.num_channels)
        request = Request(input, formula, parameters, self.activation, residual, mask, asker=asker, lean=self.lean)
        return run_and_keep(self, numbers, request, self._check_request)

    def _scripted(self) -> nn.Module:
        return ScriptedGroupNorm(self)

    def _check_request(self, request: Request) -> None:
        x = request.x
        check_input(x, "GroupNorm")
        if x.shape[1] != self.num_channels:
            raise ValueError(
                f"GroupNorm({self.num_groups}, {self.num_channels}) expected {self.num_channels} channels in "
                f"dimension 1, got input {list(x.shape)}; write num_channels={x.shape[1]} or move the channels there."
            )
        check_groups(self, self.num_groups, self.num_channels)
        check_channels(self, x, self.num_channels, *parameters_of(self), None)
        check_values_per_group(self, x, self.num_channels // self.num_groups)
        check_request(request)
