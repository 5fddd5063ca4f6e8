"""Batch Renormalization: batch statistics in the gradient, running statistics in the output."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from normwise.core import formulas
from normwise.core.formulas import Affine, Formula, RenormTarget
from normwise.core.moments import Moments
from normwise.core.policy import recomputing
from normwise.core.processes import ProcessGroup
from normwise.core.schedule import Schedule, as_schedule, value_at
from normwise.operations.context import plain_operations_wanted
from normwise.operations.normalize import Result

from .batch_layer import BatchLayer

#: The paper's schedules: plain batch normalization for 5000 steps, then r up to 3 and d up to 5.
PAPER_R_MAX: Schedule = ((5_000.0, 1.0), (40_000.0, 3.0))
PAPER_D_MAX: Schedule = ((5_000.0, 0.0), (25_000.0, 5.0))

#: How many forward passes a backward pass may have to recompute at most.
_REMEMBERED_PASSES = 8


class _BatchRenorm(BatchLayer):
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
        name = type(self).__name__
        self.r_max = as_schedule(r_max, f"{name}: r_max", 1.0)
        self.d_max = as_schedule(d_max, f"{name}: d_max", 0.0)
        self._passes: deque[tuple[Tensor, _Before]] = deque(maxlen=_REMEMBERED_PASSES)
        self.target()  # raises without running statistics

    def target(self) -> RenormTarget:
        """What the next batch is corrected towards: the running statistics, and the limits at this step."""
        return _target(self._before(), self.r_max, self.d_max)

    def _before(self) -> _Before:
        running = self.running_statistics()
        if running is None or running.batches is None:
            name = type(self).__name__
            raise ValueError(
                f"{name} corrects towards its running statistics and needs them; leave track_running_stats=True, or "
                f"write {name.replace('Renorm', 'Norm')} for batch statistics alone."
            )
        known = running.moments()
        return _Before(known.mean, known.var, running.batches.to(known.mean.dtype, copy=True))

    def _by_batch(self, x: Tensor, group: ProcessGroup | None) -> Formula:
        self._check_before(x)
        constants = {"r_max": self.r_max, "d_max": self.d_max, "eps": self.__dict__["eps"], "processes": group}
        if recomputing() and self._passes:
            return partial(_as_before, passes=tuple(self._passes), **constants)
        return partial(_corrected, before=self._before(), **constants)

    def _note(self, formula: Formula, result: Result) -> None:
        before = formula.keywords.get("before")  # type: ignore[attr-defined]
        if before is not None and not plain_operations_wanted():
            self._passes.append((result.statistics().mean, before))

    def extra_repr(self) -> str:
        shown = super().extra_repr()
        for name, default in (("r_max", PAPER_R_MAX), ("d_max", PAPER_D_MAX)):
            value = getattr(self, name)
            shown += "" if value == default else f", {name}={value}"
        return shown


class _Before(NamedTuple):
    """The running statistics, ``[1, C]``, and the number of the step, as a forward pass found them."""

    mean: Tensor
    var: Tensor
    step: Tensor


def _target(before: _Before, r_max: Schedule, d_max: Schedule) -> RenormTarget:
    return RenormTarget(before.mean, before.var, value_at(r_max, before.step), value_at(d_max, before.step))


def _corrected(
    moments: Moments,
    weight: Tensor | None,
    bias: Tensor | None,
    *,
    before: _Before,
    r_max: Schedule,
    d_max: Schedule,
    eps: float,
    processes: ProcessGroup | None,
) -> Affine:
    target = _target(before, r_max, d_max)
    return formulas.batch_renorm(moments, weight, bias, target=target, eps=eps, processes=processes)


def _as_before(
    moments: Moments,
    weight: Tensor | None,
    bias: Tensor | None,
    *,
    passes: tuple[tuple[Tensor, _Before], ...],
    r_max: Schedule,
    d_max: Schedule,
    eps: float,
    processes: ProcessGroup | None,
) -> Affine:
    """The formula with the target of the pass that is recomputed: the one whose batch had the same means.

    The running statistics have moved since, and with them r and d would be others than in the output.
    """
    with torch.no_grad():  # the recomputation must save for its backward just what the first pass saved
        mean = moments.over_batch(processes).mean
        nearest = torch.stack([(seen - mean).square().sum() for seen, _ in passes]).argmin().view(1)
        columns = (torch.stack(column) for column in zip(*(before for _, before in passes), strict=True))
        before = _Before(*(column.index_select(0, nearest).squeeze(0) for column in columns))
    return _corrected(moments, weight, bias, before=before, r_max=r_max, d_max=d_max, eps=eps, processes=processes)


class BatchRenorm1d(_BatchRenorm, nn.BatchNorm1d):
    r"""Batch Renormalization of ``[N, C]`` or ``[N, C, L]``; see `BatchRenorm2d`.

    >>> BatchRenorm1d(4)(torch.randn(8, 4)).mean(0).abs().max() < 1e-6
    tensor(True)
    """

    rank = 1


class BatchRenorm2d(_BatchRenorm, nn.BatchNorm2d):
    r"""Batch Renormalization of ``[N, C, H, W]``: BatchNorm that computes in training what it will in evaluation.

    .. math:: y = f\left(\gamma\left(\frac{x - \mu_c}{\sigma_c}\, r + d\right) + \beta + \text{residual}\right), \quad
              r = \operatorname{clip}\left(\frac{\sigma_c}{\sigma}\right)_{1/r_{\max}}^{r_{\max}}, \quad
              d = \operatorname{clip}\left(\frac{\mu_c - \mu}{\sigma}\right)_{-d_{\max}}^{d_{\max}}

    μ_c and σ_c² + ε (**biased**) are the batch's, μ and σ² + ε the running ones *before* this step's update. No
    gradient flows through r and d. Where nothing is clipped, the output is ``γ (x - μ)/σ + β``, just what evaluation
    gives, while the input gradient still sums to zero in each channel, as BatchNorm's does. Evaluation is
    `BatchNorm2d`'s, and so are the buffers: checkpoints load strictly in both directions.

    Args: as `BatchNorm2d`, whose ``forward`` and errors it shares; ``momentum`` is 0.01, as in the paper: the output
    depends on the running statistics now, and they must be calm. Keyword only: ``r_max`` (at least 1) and ``d_max``
    (at least 0), numbers or points ``(step, value)`` of a piecewise linear schedule. The step is
    ``num_batches_tracked`` and survives checkpoints. The default is the paper's schedule for a run of 100 000s of
    steps: plain BatchNorm until step 5000, r_max 3 at step 40 000, d_max 5 at 25 000. Scale it to your run; constants
    such as ``r_max=1.5, d_max=0.5`` (Wu and He 2018, at batch size 4) need no length.

    Raises ValueError for limits below 1 and 0, schedules that go backwards, and ``track_running_stats=False``.

    Source: Ioffe 2017, arXiv:1702.03275, who keeps a running standard deviation and publishes no code. Here the
    buffer is torch's ``running_var``, with the **unbiased** variance.

    The trap: an activation checkpoint is recomputed after the update; the layer then uses again what it was corrected
    towards at first, as long as no more than 8 of its forward passes lie in between.

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
