"""Batch Renormalization: batch statistics in the gradient, running statistics in the output."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from normwise.core import formulas
from normwise.core.arguments import finite_padding
from normwise.core.formulas import Affine, Formula, RenormTarget
from normwise.core.lasting import changing_state
from normwise.core.moments import Moments
from normwise.core.processes import ProcessGroup
from normwise.core.recomputing import graphs_may_ask, recomputing
from normwise.core.running import RunningStatistics
from normwise.core.schedule import Schedule, as_schedule, value_at
from normwise.operations.normalize import Result

from .batch_layer import BatchLayer
from .passes import Before, Passes, before_in_graph, is_to_be_kept

#: The paper's schedules: plain batch normalization for 5000 steps, then r up to 3 and d up to 5.
PAPER_R_MAX: Schedule = ((5_000.0, 1.0), (40_000.0, 3.0))
PAPER_D_MAX: Schedule = ((5_000.0, 0.0), (25_000.0, 5.0))


class _Limit:
    """An attribute that holds a schedule of values from ``lowest`` on, checked whenever it is set."""

    def __init__(self, lowest: float) -> None:
        self._lowest = lowest

    def __set_name__(self, _layer: type, name: str) -> None:
        self._name, self.kept_as = name, (f"_{name}",)

    def __get__(self, layer: Any, _kind: type | None = None) -> Any:
        return self if layer is None else getattr(layer, self.kept_as[0])

    def __set__(self, layer: Any, value: Any) -> None:
        setattr(layer, self.kept_as[0], as_schedule(value, f"{type(layer).__name__}: {self._name}", self._lowest))


class _BatchRenorm(BatchLayer):
    """The base of `BatchRenorm1d`, 2d and 3d."""

    r_max: Any = _Limit(1.0)
    d_max: Any = _Limit(0.0)
    plain_in = ("evaluation",)

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.01,
        affine: bool = True,
        track_running_stats: bool = True,
        device: Any = None,
        dtype: torch.dtype | None = None,
        *,
        r_max: float | Sequence[tuple[float, float]] = PAPER_R_MAX,
        d_max: float | Sequence[tuple[float, float]] = PAPER_D_MAX,
        **options: Any,
    ) -> None:
        super().__init__(num_features, eps, momentum, affine, track_running_stats, device, dtype, **options)
        self.r_max, self.d_max = r_max, d_max
        self._passes = Passes()
        self.target()  # raises without running statistics

    def target(self) -> RenormTarget:
        """The running statistics that the next batch is corrected towards, and the limits at this step."""
        return _target(Before.now(self._running()), self.r_max, self.d_max)

    def _running(self) -> RunningStatistics:
        running = self.running_statistics()
        if running is None or running.batches is None:
            name = type(self).__name__
            raise ValueError(
                f"{name} corrects towards its running statistics and needs them; leave track_running_stats=True, or "
                f"write {name.replace('Renorm', 'Norm')} for batch statistics alone."
            )
        return running

    def _by_batch(self, x: Tensor, mask: Tensor | None, group: ProcessGroup | None) -> Formula:
        self._check_before(x)
        constants = {"r_max": self.r_max, "d_max": self.d_max, "eps": self._eps, "processes": group}
        if graphs_may_ask():
            return partial(_corrected_in_graph, running=self._running(), passes=self._passes, **constants)
        with changing_state():
            if recomputing():
                before = self._passes.find(_moments_of_batch(x, mask, group), nested=is_to_be_kept())
            else:
                before = Before.now(self._running())
        return partial(_corrected, before=before, **constants)

    def _note(self, formula: Formula, result: Result) -> None:
        if is_to_be_kept() and not recomputing():
            with changing_state():
                self._passes.keep(result.statistics(), formula.keywords["before"])  # type: ignore[attr-defined]

    def extra_repr(self) -> str:
        shown = super().extra_repr()
        for name, default in (("r_max", PAPER_R_MAX), ("d_max", PAPER_D_MAX)):
            value = getattr(self, name)
            shown += "" if value == default else f", {name}={value}"
        return shown


@torch.no_grad()
def _moments_of_batch(x: Tensor, mask: Tensor | None, group: ProcessGroup | None) -> Moments:
    values, _ = finite_padding(mask, x, None)
    return Moments.of(values, mask).over_batch(group)


def _target(before: Before, r_max: Schedule, d_max: Schedule) -> RenormTarget:
    return RenormTarget(before.mean, before.var, value_at(r_max, before.step), value_at(d_max, before.step))


def _corrected(
    moments: Moments,
    weight: Tensor | None,
    bias: Tensor | None,
    *,
    before: Before,
    r_max: Schedule,
    d_max: Schedule,
    eps: float,
    processes: ProcessGroup | None,
) -> Affine:
    target = _target(before, r_max, d_max)
    return formulas.batch_renorm(moments, weight, bias, target=target, eps=eps, processes=processes)


def _corrected_in_graph(
    moments: Moments,
    weight: Tensor | None,
    bias: Tensor | None,
    *,
    running: RunningStatistics,
    passes: Passes,
    processes: ProcessGroup | None,
    **constants: Any,
) -> Affine:
    """The formula in a graph, which may run again when the running statistics have changed."""
    before = before_in_graph(moments.over_batch(processes), running, passes)
    return _corrected(moments, weight, bias, before=before, processes=processes, **constants)


class BatchRenorm1d(_BatchRenorm, nn.BatchNorm1d):
    r"""Batch Renormalization of ``[N, C]`` or ``[N, C, L]``; see `BatchRenorm2d`.

    >>> BatchRenorm1d(4)(torch.randn(8, 4)).mean(0).abs().max() < 1e-6
    tensor(True)
    """

    rank = 1


class BatchRenorm2d(_BatchRenorm, nn.BatchNorm2d):
    r"""Batch Renormalization of ``[N, C, H, W]``: BatchNorm whose training output is close to that of evaluation.

    .. math:: y = f\left(\gamma\left(\frac{x - \mu_c}{\sigma_c}\, r + d\right) + \beta + \text{residual}\right), \quad
              r = \operatorname{clip}\left(\frac{\sigma_c}{\sigma}\right)_{1/r_{\max}}^{r_{\max}}, \quad
              d = \operatorname{clip}\left(\frac{\mu_c - \mu}{\sigma}\right)_{-d_{\max}}^{d_{\max}}

    μ_c and σ_c² + ε (**biased**) are the batch's, μ and σ² + ε the running ones *before* this step's update. No
    gradient flows through r and d. Where nothing is clipped, the output is ``γ (x - μ)/σ + β``, exactly that of
    evaluation, while the input gradient still sums to zero in each channel, as in BatchNorm. Evaluation and buffers
    are those of `BatchNorm2d`: checkpoints load strictly in both directions.

    Args: as `BatchNorm2d`, whose ``forward`` and errors it shares; ``momentum`` is 0.01, as in the paper, because
    the output depends on the running statistics, which must change slowly. Keyword only: ``r_max`` (at least 1) and
    ``d_max`` (at least 0), numbers or points ``(step, value)`` of a piecewise linear schedule. The step is
    ``num_batches_tracked`` and survives checkpoints. The default is the paper's schedule for a run of 100 000s of
    steps: plain BatchNorm until step 5000, r_max 3 at step 40 000, d_max 5 at 25 000. Scale it to your run; constants
    such as ``r_max=1.5, d_max=0.5`` (Wu and He 2018, at batch size 4) do not depend on its length.

    Raises ValueError for limits below 1 and 0, schedules that fall, and ``track_running_stats=False``.

    Source: Ioffe 2017, arXiv:1702.03275, who keeps a running standard deviation and publishes no code. Here the
    buffer is torch's ``running_var``, with the **unbiased** variance.

    The trap: activation checkpointing runs the forward pass again after the update. The layer then uses the statistics
    of the first run, and raises RuntimeError where more than 256 of its forward passes lie in between.

    >>> x = torch.randn(8, 3, 4, 4)
    >>> torch.allclose(BatchRenorm2d(3, r_max=1, d_max=0)(x), nn.BatchNorm2d(3)(x), atol=1e-6)
    True
    >>> free = BatchRenorm2d(3, r_max=float("inf"), d_max=float("inf"))
    >>> torch.allclose(free(x), nn.BatchNorm2d(3).eval()(x), atol=1e-6)
    True
    """

    rank = 2


class BatchRenorm3d(_BatchRenorm, nn.BatchNorm3d):
    r"""Batch Renormalization of ``[N, C, D, H, W]``; see `BatchRenorm2d`.

    >>> BatchRenorm3d(2)(torch.randn(2, 2, 3, 3, 3)).shape
    torch.Size([2, 2, 3, 3, 3])
    """

    rank = 3
