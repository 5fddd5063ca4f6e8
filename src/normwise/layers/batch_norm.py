"""Batch normalization: one pool per channel, over the batch and space."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from normwise.core.arguments import as_mask
from normwise.core.running import RunningStatistics
from normwise.operations import standardize

from ._shared import ChannelLayer, values_per_channel, without_bias


class _BatchNorm(ChannelLayer, nn.modules.batchnorm._BatchNorm):
    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device: Any = None,
        dtype: torch.dtype | None = None,
        *,
        bias: bool = True,
        activation: str | None = None,
    ) -> None:
        super().__init__(num_features, eps, momentum, affine, track_running_stats, device, dtype)
        if not bias:
            without_bias(self)
        self._set_activation(activation)

    def forward(self, x: Tensor, residual: Tensor | None = None, mask: Tensor | None = None) -> Tensor:  # type: ignore[override]
        self._check_input_dim(x)
        options: dict[str, Any] = {"activation": self.activation, "residual": residual}
        remembered = self._running()
        if not self.training and remembered is not None:
            if mask is not None:
                as_mask(mask, x)  # the statistics are known: only its form matters
            return standardize.by_running(x, remembered, self.weight, self.bias, self.eps, **options)
        self._check_statistics(x)
        y, pooled = standardize.over_batch(x, self.weight, self.bias, self.eps, mask=mask, **options)
        if self.training and remembered is not None and self.track_running_stats:
            remembered.update_from_batch(pooled)
        return y

    def _check_input_dim(self, input: Tensor) -> None:
        self._check(input, dims=(2, 3) if self.rank == 1 else (self.rank + 2,), channel=1)

    def _check_statistics(self, x: Tensor) -> None:
        if values_per_channel(x) == 1:
            raise ValueError(
                f"{type(self).__name__}: Expected more than 1 value per channel when training, got input size "
                f"{list(x.shape)}; the output would be the bias whatever the input is. Use a larger batch "
                "(drop_last=True drops a tail of one), call eval(), or use a per-sample layer such as GroupNorm."
            )
        if self.eps <= 0:
            raise ValueError(f"{type(self).__name__}: eps must be positive in training, received {self.eps}.")

    def _running(self) -> RunningStatistics | None:
        if self.running_mean is None or self.running_var is None:
            return None
        return RunningStatistics(self.running_mean, self.running_var, self.num_batches_tracked, self.momentum)


class BatchNorm1d(_BatchNorm, nn.BatchNorm1d):
    r"""Batch normalization of ``[N, C]`` or ``[N, C, L]``: `torch.nn.BatchNorm1d`, with a fused epilogue.

    .. math:: y = f\left(\gamma\,\frac{x - \mu_c}{\sqrt{\sigma_c^2 + \epsilon}} + \beta + \text{residual}\right)

    See `BatchNorm2d`, whose arguments, errors and deviations are the same.

    >>> BatchNorm1d(4)(torch.randn(8, 4)).mean(0).abs().max() < 1e-6
    tensor(True)
    """

    rank = 1


class BatchNorm2d(_BatchNorm, nn.BatchNorm2d):
    r"""Batch normalization of ``[N, C, H, W]``: a drop-in for `torch.nn.BatchNorm2d`.

    .. math:: y = f\left(\gamma\,\frac{x - \mu_c}{\sqrt{\sigma_c^2 + \epsilon}} + \beta + \text{residual}\right)

    μ and σ² are pooled over N, H and W for each channel: those of the batch in training (σ² **biased**), the
    running ones in evaluation. The buffer ``running_var`` takes in the **unbiased** variance.

    Args: as torch's; ``momentum`` is the weight of the *new* value, None a cumulative average. Keyword only:
    ``activation`` names an activation applied last, such as ``"relu"``.

    ``forward(x, residual=None, mask=None)``: ``residual`` has ``x``'s shape and is added before the activation;
    ``mask`` is boolean, ``[N, H, W]`` or ``[N, 1, H, W]``: batch and running statistics are those of the values
    where it is true.

    Shape, dtype and memory layout of the output are the input's.

    Raises ValueError for a wrong number of dimensions or channels, and in training for a single value per
    channel (a batch of one without space), where the output would not depend on the input.

    Source: Ioffe and Szegedy 2015, arXiv:1502.03167.

    Differs from torch: an empty batch is not counted in ``num_batches_tracked``. The trap: in evaluation the
    layer is another function than in training, and with small batches a rather different one.

    >>> x = torch.randn(1, 3, 4, 4)                       # a batch of one: instance normalization
    >>> torch.allclose(BatchNorm2d(3)(x), nn.InstanceNorm2d(3)(x), atol=1e-6)
    True
    """

    rank = 2


class BatchNorm3d(_BatchNorm, nn.BatchNorm3d):
    r"""Batch normalization of ``[N, C, D, H, W]``: `torch.nn.BatchNorm3d`, with a fused epilogue.

    .. math:: y = f\left(\gamma\,\frac{x - \mu_c}{\sqrt{\sigma_c^2 + \epsilon}} + \beta + \text{residual}\right)

    See `BatchNorm2d`, whose arguments, errors and deviations are the same.

    >>> BatchNorm3d(2)(torch.randn(2, 2, 3, 3, 3)).shape
    torch.Size([2, 2, 3, 3, 3])
    """

    rank = 3
