"""The base of layers whose statistics are pooled over the batch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from normwise.core.known import check_channels
from normwise.core.moments import Moments
from normwise.core.numbers import check_eps, check_momentum, check_whole
from normwise.core.processes import ProcessGroup, resolve_group
from normwise.core.running import RunningStatistics
from normwise.core.single_value import WITHOUT_EFFECT, check_values_per_channel
from normwise.operations import standardize

from ._shared import parameters_of, values_per_channel, without_bias
from .running_layer import RunningLayer

_LARGER_BATCH = (
    f"{WITHOUT_EFFECT} Use a larger batch (drop_last=True drops a tail of one), single_value='running', eval(), or a "
    "per-sample layer such as GroupNorm."
)


class BatchLayer(RunningLayer, nn.modules.batchnorm._BatchNorm):
    """A layer whose statistics in training are pooled over the batch; a subclass decides the formula.

    Takes torch's arguments, and keyword only: ``activation``; ``process_group``, over whose processes the batch
    extends (``"world"``, a `torch.distributed.ProcessGroup`, or None for this process alone); ``nonfinite`` and
    ``single_value``, see `StatisticsPolicy`.
    """

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
        process_group: ProcessGroup | str | None = None,
        nonfinite: str = "skip",
        single_value: str = "error",
    ) -> None:
        check_whole(self, "num_features", num_features, 0)
        check_eps(self, eps)
        check_momentum(self, momentum)
        super().__init__(num_features, eps, momentum, affine, track_running_stats, device=device, dtype=dtype)
        if not bias:
            without_bias(self)
        self._set_activation(activation)
        self._set_policy(nonfinite, single_value)
        if isinstance(process_group, str) and process_group != "world":
            raise ValueError(f"process_group must be 'world', a ProcessGroup or None, received {process_group!r}.")
        self.process_group = process_group

    def forward(  # type: ignore[override]
        self,
        x: Tensor,
        residual: Tensor | None = None,
        mask: Tensor | None = None,
        lengths: Tensor | None = None,
    ) -> Tensor:
        return self._forward(x, mask, lengths, residual=residual)

    def _forward(self, x: Tensor, mask: Tensor | None, lengths: Tensor | None, **options: Any) -> Tensor:
        """`forward` with what a subclass adds to the options of `_by_batch` and `_by_running`."""
        self._check_input_dim(x)
        running = self.running_statistics()
        self._check_tensors(x, running)
        if mask is not None or lengths is not None:
            mask = self._mask(x, mask, lengths)
        options["mask"], options["activation"] = mask, self.activation
        if running is not None and not self._uses_batch(x):
            return self._by_running(x, running, **options)
        together = self.training and self.process_group is not None
        group = resolve_group(self.process_group) if together else None
        self._check_statistics(x, group)
        learning = running if self.training and self.track_running_stats else None
        return self._train(x, learning, group, **options)

    def _train(
        self, x: Tensor, learning: RunningStatistics | None, group: ProcessGroup | None, **options: Any
    ) -> Tensor:
        """The output by the batch's statistics, which ``learning`` takes in."""
        y, statistics = self._by_batch(x, group, **options)
        self._check_total(statistics, group)
        if learning is not None:
            self._remember(statistics, x)
        return y

    def _by_batch(self, x: Tensor, group: ProcessGroup | None, **options: Any) -> tuple[Tensor, Moments]:
        """The output in training, and the statistics to remember."""
        raise NotImplementedError

    def _by_running(self, x: Tensor, running: RunningStatistics, **options: Any) -> Tensor:
        """The output in evaluation."""
        return standardize.by_running(x, running, *parameters_of(self), self.eps, **options)

    def _check_total(self, statistics: Moments, group: ProcessGroup | None) -> None:
        if group is None or not isinstance(statistics.count, Tensor) or statistics.count.device.type != "cpu":
            return  # on a GPU, asking would wait for the device
        if statistics.count.max() == 1:
            raise ValueError(
                f"{type(self).__name__}: Expected more than 1 value per channel when training, but the processes of "
                "the group hold only one together; use a larger batch, or call eval()."
            )

    def _uses_batch(self, x: Tensor) -> bool:
        if not self.training or self.policy.frozen:
            return False
        lonely = self.policy.single_value == "running" and values_per_channel(x) == 1
        return not lonely

    def _check_input_dim(self, input: Tensor) -> None:
        self._check(input, dims=(2, 3) if self.rank == 1 else (self.rank + 2,), channel=1)

    def _check_tensors(self, x: Tensor, running: RunningStatistics | None) -> None:
        """Parameters and buffers as they are now; a subclass adds its own."""
        check_channels(self, x, self.num_features, *parameters_of(self), running)

    def _check_statistics(self, x: Tensor, group: ProcessGroup | None) -> None:
        if group is None:  # with one, other processes may hold the rest of the batch
            check_values_per_channel(self, x, _LARGER_BATCH)
        if not self.eps > 0:
            raise ValueError(f"{type(self).__name__}: eps must be positive in training, received {self.eps}.")
