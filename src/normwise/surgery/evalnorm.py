"""BatchNorm whose statistics in evaluation include the sample itself, as in training."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ..core import formulas
from ..core.arguments import check_input
from ..core.formulas import Affine, Formula
from ..core.inheritance import share_tensors
from ..core.moments import Moments
from ..core.processes import ProcessGroup
from ..core.running import RunningStatistics
from ..layers import BatchNorm1d, BatchNorm2d, BatchNorm3d, SyncBatchNorm
from ..layers.batch_layer import BatchLayer, pooled

_KNOWN = (
    *(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm),
    *(BatchNorm1d, BatchNorm2d, BatchNorm3d, SyncBatchNorm),
)


class EvalNorm(BatchLayer):
    r"""Batch normalization of ``[N, C, *space]`` with EvalNorm's statistics in evaluation.

    .. math:: \hat\mu = (1 - \alpha)\,\mu + \alpha\,\mu_n, \qquad
              \hat\sigma^2 = (1 - \alpha)\,\sigma^2 + \alpha\,\sigma_n^2 + \alpha (1 - \alpha)(\mu_n - \mu)^2

    μ and σ² are the running statistics, μ_n and σ_n² (**biased**) those of the sample: together the statistics of a
    batch in which the sample has the share α, the buffer ``share``. In training the layer is BatchNorm.

    >>> layer, x = EvalNorm(3), torch.randn(4, 3, 8, 8)
    >>> _ = layer.share.fill_(1.0)
    >>> torch.allclose(layer.eval()(x), nn.InstanceNorm2d(3)(x), atol=1e-5)
    True
    """

    rank = 0
    share: Tensor

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.register_buffer("share", torch.zeros(()))

    def _by_batch(self, x: Tensor, group: ProcessGroup | None) -> Formula:  # noqa: ARG002 as every layer
        return pooled(formulas.batch_norm, group, eps=self.eps)

    def _by_running(self, x: Tensor, running: RunningStatistics) -> tuple[Formula, Moments | None]:
        self._check_before(x)
        return partial(_counted_in, known=running.moments(), share=self.share, eps=self.eps), None

    def _check_input_dim(self, input: Tensor) -> None:
        check_input(input, type(self).__name__)
        self._check(input, dims=(input.dim(),), channel=1)


def _counted_in(
    moments: Moments, weight: Tensor | None, bias: Tensor | None, *, known: Moments, share: Tensor, eps: float
) -> Affine:
    share = share.to(known.mean)
    away = moments.away_from(known)
    var = known.var + share * (moments.var - known.var) + share * (1 - share) * away.square()
    return formulas.standardized(known._replace(mean=known.mean + share * away, var=var), weight, bias, eps)


def evalnorm_of(layer: nn.Module, name: str, share: float, caller: str) -> EvalNorm:
    """An EvalNorm with the tensors of a BatchNorm; ValueError for other layers and for subclasses that do more."""
    if type(layer) not in _KNOWN or "forward" in vars(layer) or parametrize.is_parametrized(layer):
        raise ValueError(
            f"{caller}: method='evalnorm' works on plain BatchNorm layers only, and {name} is a "
            f"{type(layer).__name__}; "
            "write method='population'."
        )
    options = {}
    if isinstance(layer, BatchLayer):
        options = {"activation": layer.activation, "process_group": layer.process_group}
    elif isinstance(layer, nn.SyncBatchNorm):
        options = {"process_group": "world" if layer.process_group is None else layer.process_group}
    twin = EvalNorm(layer.num_features, layer.eps, layer.momentum, layer.affine, layer.track_running_stats, **options)
    if isinstance(layer, BatchLayer):
        twin.policy = layer.policy
    share_tensors(twin, layer)
    twin.share.fill_(share)
    return twin
