"""Batch normalization with an affine map for each condition."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from normwise.core import formulas
from normwise.core.formulas import Formula
from normwise.core.known import check_channels
from normwise.core.processes import ProcessGroup
from normwise.core.running import RunningStatistics
from normwise.core.symbols import as_node, is_symbol

from ._conditions import ConditionTables
from .batch_layer import BatchLayer, pooled
from .batch_norm import BatchNorm1d, BatchNorm2d, BatchNorm3d

_BATCH = {1: BatchNorm1d, 2: BatchNorm2d, 3: BatchNorm3d}


class _ConditionalBatchNorm(ConditionTables, BatchLayer):
    """The base of `ConditionalBatchNorm1d`, 2d and 3d."""

    def __init__(
        self,
        num_features: int,
        num_conditions: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        track_running_stats: bool = True,
        device: Any = None,
        dtype: torch.dtype | None = None,
        **options: Any,
    ) -> None:
        super().__init__(num_features, eps, momentum, False, track_running_stats, device, dtype, **options)
        self.affine = True
        self._create_tables(num_conditions, num_features, device, dtype)

    def forward(  # type: ignore[override]
        self,
        x: Tensor,
        condition: Tensor,
        residual: Tensor | None = None,
        mask: Tensor | None = None,
        lengths: Tensor | None = None,
    ) -> Tensor:
        if is_symbol(x, condition):
            return as_node(self, x, condition, residual, mask, lengths)
        self._check_input_dim(x)
        self._check_tables(x)
        affine = self._rows(condition, x.shape[0])
        return self._forward(x, residual, mask, lengths, affine)

    def _check_tensors(self, x: Tensor, running: RunningStatistics | None) -> None:
        check_channels(self, x, self.num_features, None, None, running)  # the tables have been checked when read

    def _by_batch(self, x: Tensor, mask: Tensor | None, group: ProcessGroup | None) -> Formula:
        return pooled(formulas.batch_norm, group, eps=self._eps)

    def fold(self, condition: int | Tensor) -> nn.Module:
        """The plain BatchNorm of one condition: a label, or the weights ``[K]`` of a mixture.

        For that condition it computes exactly the output of this layer, in training and evaluation. It has its own
        parameters and running statistics (a copy of those of the bank in use).
        """
        weight, bias = self._row(condition)
        plain = _BATCH[self.rank](
            self.num_features,
            self.eps,
            self.momentum,
            track_running_stats=self.track_running_stats,
            device=self.weight.device,
            dtype=self.weight.dtype,
            activation=self.activation,
            process_group=self.process_group,
            nonfinite=self.policy.nonfinite,
            single_value=self.policy.single_value,
        )
        plain.policy.frozen = self.policy.frozen
        state = {"weight": weight, "bias": bias}
        running = self.running_statistics()
        if running is not None and running.batches is not None:
            state |= {"running_mean": running.mean, "running_var": running.var, "num_batches_tracked": running.batches}
        plain.load_state_dict(state)
        return plain.train(self.training)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, num_conditions={self.num_conditions}"


class ConditionalBatchNorm1d(_ConditionalBatchNorm):
    r"""Conditional batch normalization of ``[N, C]`` or ``[N, C, L]``; see `ConditionalBatchNorm2d`.

    >>> ConditionalBatchNorm1d(4, 2)(torch.randn(3, 4), torch.tensor([0, 1, 0])).shape
    torch.Size([3, 4])
    """

    rank = 1


class ConditionalBatchNorm2d(_ConditionalBatchNorm):
    r"""Batch normalization of ``[N, C, H, W]`` with an affine map for each of K classes.

    .. math:: y = f\left(\gamma_{kc}\,\frac{x - \mu_c}{\sqrt{\sigma_c^2 + \epsilon}} + \beta_{kc}
              + \text{residual}\right)

    k is the condition of sample n; μ and σ² are `BatchNorm2d`'s, pooled over all samples whatever their condition, and
    so are the buffers. The parameters ``weight`` and ``bias`` are the tables of γ and β, ``[K, C]``, and start as ones
    and zeros.

    Args: ``num_features`` (C), ``num_conditions`` (K), then `BatchNorm2d`'s but ``affine``.

    ``forward(x, condition, residual=None, mask=None, lengths=None)``: ``condition`` as in `ConditionalInstanceNorm2d`,
    the rest as in `BatchNorm2d`. ``fold(condition)`` gives the plain `BatchNorm2d` of one condition.

    Raises: as `BatchNorm2d` for the input, as `ConditionalInstanceNorm2d` for the condition.

    Source: de Vries et al. 2017, arXiv:1707.00683; with one row for each class, Miyato and Koyama 2018,
    arXiv:1802.05637.

    The trap: in training a batch of one condition is normalized by that condition's statistics alone, in evaluation by
    those of all. `statistics_bank` keeps them apart.

    >>> x, layer = torch.randn(4, 3, 5, 5), ConditionalBatchNorm2d(3, num_conditions=2)
    >>> torch.allclose(layer(x, torch.tensor([0, 1, 1, 0])), nn.BatchNorm2d(3)(x), atol=1e-5)
    True
    """

    rank = 2


class ConditionalBatchNorm3d(_ConditionalBatchNorm):
    r"""Conditional batch normalization of ``[N, C, D, H, W]``; see `ConditionalBatchNorm2d`.

    >>> ConditionalBatchNorm3d(4, 2)(torch.randn(2, 4, 2, 3, 3), torch.tensor([0, 1])).shape
    torch.Size([2, 4, 2, 3, 3])
    """

    rank = 3
