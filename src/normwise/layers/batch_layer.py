"""The base of layers whose statistics are pooled over the batch."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from normwise.core import formulas
from normwise.core.bound import bound
from normwise.core.formulas import Formula
from normwise.core.known import check_channels
from normwise.core.moments import Moments
from normwise.core.numbers import check_momentum, check_whole
from normwise.core.processes import ProcessGroup, check_group, resolve_group
from normwise.core.running import RunningStatistics
from normwise.core.single_value import WITHOUT_EFFECT, check_values_per_channel
from normwise.core.symbols import as_node, is_symbol
from normwise.operations.normalize import Result, run
from normwise.operations.recent import keep, run_and_keep
from normwise.operations.request import Request
from normwise.operations.request import check as check_request

from ._shared import parameters_of, values_per_channel, without_bias
from .running_layer import RunningLayer
from .scripting import ScriptedBatchNorm

_LARGER_BATCH = (
    f"{WITHOUT_EFFECT} Use a larger batch (drop_last=True drops a tail of one), single_value='running', eval(), or a "
    "per-sample layer such as GroupNorm."
)


class BatchLayer(RunningLayer, nn.modules.batchnorm._BatchNorm):
    """A layer whose statistics in training are pooled over the batch; a subclass decides the formula.

    The arguments are torch's, and keyword only: ``activation``; ``process_group``, the processes that share the batch
    (``"world"``, a `torch.distributed.ProcessGroup`, or None for this process alone); ``nonfinite`` and
    ``single_value``, see `StatisticsPolicy`.
    """

    checked = RunningLayer.checked | {"process_group": check_group}
    #: The modes in which the layer computes what torch's batch norm would compute with its numbers, activation aside.
    plain_in: tuple[str, ...] = ()
    #: Whether ε is the only constant of the formula in training, and `_note` has nothing to do.
    one_formula = False

    def _set_lean(self, lean: bool) -> None:
        super()._set_lean(lean)
        if lean and "training" not in self.plain_in:
            raise ValueError(f"{type(self).__name__}: lean=True is for BatchNorm, InstanceNorm and GroupNorm alone.")

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
        lean: bool = False,
    ) -> None:
        check_whole(self, "num_features", num_features, 0)
        check_momentum(self, momentum)
        super().__init__(num_features, eps, momentum, affine, track_running_stats, device=device, dtype=dtype)
        if not bias:
            without_bias(self)
        self._set_activation(activation)
        self._set_policy(nonfinite, single_value)
        self.process_group = process_group
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
        return self._forward(input, residual, mask, lengths)

    def _forward(
        self,
        x: Tensor,
        residual: Tensor | None,
        mask: Tensor | None,
        lengths: Tensor | None,
        tensors: tuple[Tensor | None, ...] | None = None,
    ) -> Tensor:
        """`forward`, with the formula's ``tensors`` if given, otherwise those of `_tensors`."""
        if mask is not None or lengths is not None:
            mask = self._mask(x, mask, lengths)
        if tensors is None:
            tensors = self._tensors()
        running = self.running_statistics()
        if running is not None and not self._uses_batch(x):
            numbers = self._numbers("running")
            alone = self.one_formula and mask is None
            y = self._recent.run_by_known(numbers, x, residual, tensors, running) if alone else None
            if y is not None:
                return y
            formula, known = self._by_running(x, running)
            asker = (type(self), self.num_features, "running")
            more: dict[str, Any] = {"asker": asker, "beside": (running.batches,), "lean": self.lean}
            request = Request(x, formula, tensors, self.activation, residual, mask, known, **more)
            return run_and_keep(self, numbers, request, self._check_request)
        return self._train(x, residual, mask, tensors, running if self.training and self.track_running_stats else None)

    def _train(
        self,
        x: Tensor,
        residual: Tensor | None,
        mask: Tensor | None,
        tensors: tuple[Tensor | None, ...],
        learning: RunningStatistics | None,
    ) -> Tensor:
        """The output by the batch's statistics, with which ``learning`` is updated."""
        policy = self.policy
        at_once = learning is not None and policy.pending is None and policy.admits_updates()
        memory, numbers = learning if at_once else None, self._numbers(at_once, learning is not None)
        alone = self.one_formula and self.process_group is None and mask is None
        result = self._recent.measure(numbers, x, residual, tensors, memory) if alone else None
        if result is None:
            result = self._measured(x, residual, mask, tensors, memory, learning is not None)
            if alone:
                keep(self, numbers, result.request, result.way)
        if learning is not None and not (at_once and result.remembered()):
            self._remember(result)
        return result.y

    def _numbers(self, *mode: Any) -> tuple[Any, ...]:
        """All numbers of the layer that a request and its check use."""
        return self.num_features, self._eps, self.momentum, self.activation, self.lean, *mode

    def _measured(
        self,
        x: Tensor,
        residual: Tensor | None,
        mask: Tensor | None,
        tensors: tuple[Tensor | None, ...],
        memory: RunningStatistics | None,
        learning: bool,
    ) -> Result:
        """The result by the batch's statistics, through the door."""
        group, check = None, self._check_alone
        if self.training and self.process_group is not None:
            group, check = self._processes(), self._check_together
        request = Request(
            x,
            self._by_batch(x, mask, group),
            tensors,
            self.activation,
            residual,
            mask,
            memory=memory,
            measured=learning or group is not None,
            asker=(type(self), self.num_features, "batch"),
            lean=self.lean,
        )
        result = run(request, check)
        self._note(request.formula, result)
        if group is not None:
            self._check_total(result.statistics())
        return result

    def _processes(self) -> ProcessGroup | None:
        """The group of processes that share the batch now; None for this process alone."""
        return resolve_group(self.process_group)

    def lost_in(self, mode: str) -> str:
        if mode not in self.plain_in:
            return "its formula"
        if self.bank is not None:
            return f"the statistics bank {self.bank!r}, which is in use"
        if mode == "training" and self.policy.frozen:
            return "that it is frozen"
        return super().lost_in(mode)

    def _scripted(self) -> nn.Module:
        return ScriptedBatchNorm(self) if "evaluation" in self.plain_in else super()._scripted()

    def _note(self, formula: Formula, result: Result) -> None:
        """Keep data of a training pass besides the running statistics, before those are updated."""

    def _by_batch(self, x: Tensor, mask: Tensor | None, group: ProcessGroup | None) -> Formula:
        """The formula in training, over the processes of a group."""
        raise NotImplementedError

    def _by_running(self, x: Tensor, running: RunningStatistics) -> tuple[Formula, Moments | None]:
        """The formula in evaluation, and the known statistics that are not among its constants."""
        return bound(formulas.standardized, eps=self._eps), Moments(running.mean, running.var, 1)

    def _tensors(self) -> tuple[Tensor | None, ...]:
        """The formula's parameters."""
        return parameters_of(self)

    def _check_total(self, statistics: Moments) -> None:
        if not isinstance(statistics.count, Tensor) or statistics.count.device.type != "cpu":
            return  # on a GPU, asking would wait for the device
        if statistics.count.max() == 1:
            raise ValueError(
                f"{type(self).__name__}: Expected more than 1 value per channel when training, but the processes of "
                "the group hold only one together; use a larger batch, or call eval()."
            )

    def _uses_batch(self, x: Tensor) -> bool:
        if not self.training or self.policy.frozen:
            return False
        if self.policy.single_value != "running":
            return True
        self._check_input_dim(x)
        return values_per_channel(x) != 1

    def _check_input_dim(self, input: Tensor) -> None:
        self._check(input, dims=(2, 3) if self.rank == 1 else (self.rank + 2,), channel=1)

    def _check_before(self, x: Tensor) -> None:
        """Check the tensors from which a subclass makes its formula, before that is made."""
        self._check_input_dim(x)
        self._check_tensors(x, self.running_statistics())

    def _check_request(self, request: Request) -> None:
        self._check_before(request.x)
        check_request(request)

    def _check_alone(self, request: Request) -> None:
        self._check_training(request, None)

    def _check_together(self, request: Request) -> None:
        self._check_training(request, self._processes())

    def _check_training(self, request: Request, group: ProcessGroup | None) -> None:
        self._check_request(request)
        check_momentum(self, self.momentum)
        self._check_statistics(request.x, group)

    def _check_tensors(self, x: Tensor, running: RunningStatistics | None) -> None:
        """Check parameters and buffers as they are now; a subclass adds its own."""
        check_channels(self, x, self.num_features, *parameters_of(self), running)

    def _check_statistics(self, x: Tensor, group: ProcessGroup | None) -> None:
        if group is None:  # in a group, other processes may hold the rest of the batch
            check_values_per_channel(self, x, _LARGER_BATCH)
        if not self.eps > 0:
            raise ValueError(f"{type(self).__name__}: eps must be positive in training, received {self.eps}.")


def pooled(formula: Formula, group: ProcessGroup | None, **constants: Any) -> Formula:
    """A formula with constants, which pools the batch over the processes of a group if there is one."""
    return bound(formula, **constants) if group is None else partial(formula, processes=group, **constants)
