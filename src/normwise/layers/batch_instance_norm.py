"""Batch-Instance Normalization: a gate per channel between the batch's statistics and the sample's own."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from normwise.core import formulas
from normwise.core.formulas import Affine, Formula
from normwise.core.moments import Moments
from normwise.core.processes import ProcessGroup
from normwise.core.running import RunningStatistics
from normwise.core.tables import check_required

from .batch_layer import pooled
from .mixture_layer import MixtureLayer
from .unit_interval import bring_back, unit_interval


class _BatchInstanceNorm(MixtureLayer):
    """The base of `BatchInstanceNorm1d`, 2d and 3d."""

    mixing = ("gate",)
    start = "which is plain batch normalization"
    gate: nn.Parameter

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
        self._set_mixing((num_features,), device, dtype)

    def _formula(self, group: ProcessGroup | None) -> Formula:
        return pooled(_with_the_gate_inside, group, eps=self._eps)

    def _by_batch(self, x: Tensor, mask: Tensor | None, group: ProcessGroup | None) -> Formula:
        if self.training:
            self._check_before(x)
            bring_back(self.gate)
        return super()._by_batch(x, mask, group)

    def _tensors(self) -> tuple[Tensor | None, ...]:
        return self.weight, self.bias, self.gate

    def _check_tensors(self, x: Tensor, running: RunningStatistics | None) -> None:
        super()._check_tensors(x, running)
        check_required(self, x, (self.num_features,), gate=self.gate)


def _with_the_gate_inside(
    moments: Moments, weight: Tensor | None, bias: Tensor | None, gate: Tensor, **constants: Any
) -> Affine:
    return formulas.batch_instance_norm(moments, weight, bias, unit_interval(gate), **constants)


def gates(model: nn.Module) -> list[nn.Parameter]:
    """The gates of every Batch-Instance Normalization in ``model``, each once, also in a deep copy.

    In the paper they have a parameter group of their own, with ten times the learning rate and no weight decay.

    >>> model = nn.Sequential(nn.Conv2d(1, 4, 3), BatchInstanceNorm2d(4))
    >>> own = gates(model)
    >>> others = [p for p in model.parameters() if all(p is not gate for gate in own)]
    >>> groups = [{"params": others}, {"params": own, "lr": 1.0, "weight_decay": 0.0}]
    >>> len(torch.optim.SGD(groups, lr=0.1, weight_decay=1e-4).param_groups)
    2
    """
    return [layer.gate for layer in model.modules() if isinstance(layer, _BatchInstanceNorm)]


class BatchInstanceNorm1d(_BatchInstanceNorm):
    r"""Batch-Instance Normalization of ``[N, C]`` or ``[N, C, L]``; see `BatchInstanceNorm2d`.

    On ``[N, C]`` a sample has no statistics of its own: the output is ρ times BatchNorm's.

    >>> x = torch.randn(8, 4)
    >>> torch.allclose(BatchInstanceNorm1d(4)(x), nn.BatchNorm1d(4)(x), atol=1e-6)
    True
    """

    rank = 1


class BatchInstanceNorm2d(_BatchInstanceNorm):
    r"""Batch-Instance Normalization of ``[N, C, H, W]``: each channel learns whether to keep the sample's style.

    .. math:: y = f\big(\gamma\,(\rho\,\hat x_B + (1 - \rho)\,\hat x_I) + \beta + \text{residual}\big)

    x̂_B is normalized as by `BatchNorm2d` (by the running statistics in evaluation), x̂_I as by `InstanceNorm2d`
    (always by the input's); both variances are **biased**, the buffer ``running_var`` is updated with the **unbiased**
    one of the batch. ``gate`` holds ρ for each channel, starting at 1: batch normalization. On planes of a single value
    x̂_I is 0.

    ρ stays in [0, 1] without a change of the training loop: the layer uses ``gate.clamp(0, 1)``, with the whole
    gradient, and the next forward pass in training clips a gate that an optimizer's step, minimizing or maximizing,
    moved outside (`gates` finds them for a parameter group). An infinite gate gives its limit, a NaN one makes its
    channel NaN.

    Args: as `BatchNorm2d`, whose ``forward`` and errors it shares; with ``affine=False`` the gate remains. With
    ``process_group`` the batch's branch is synchronized. A BatchNorm checkpoint loads, with a warning: the gates are
    set to 1.

    Source: Nam and Kim 2018, arXiv:1805.07925. Their training script clamps the gates after each step, here the next
    forward pass does; their layer takes only 4-D contiguous input and raises on planes of a single value.

    The trap: where forward uses a copy of the parameter (FSDP, `functional_call`), it is not clipped, and a gate that
    went far outside needs as many steps to come back.

    >>> layer, x = BatchInstanceNorm2d(3), torch.randn(2, 3, 8, 8)
    >>> _ = nn.init.zeros_(layer.gate)
    >>> torch.allclose(layer(x), nn.InstanceNorm2d(3)(x), atol=1e-6)
    True
    """

    rank = 2


class BatchInstanceNorm3d(_BatchInstanceNorm):
    r"""Batch-Instance Normalization of ``[N, C, D, H, W]``; see `BatchInstanceNorm2d`.

    >>> BatchInstanceNorm3d(2)(torch.randn(2, 2, 3, 3, 3)).shape
    torch.Size([2, 2, 3, 3, 3])
    """

    rank = 3
