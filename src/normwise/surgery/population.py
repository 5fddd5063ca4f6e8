"""The statistics of a layer's input over all data."""

from __future__ import annotations

import torch
from torch import Tensor

from ..core.moments import Moments
from ..core.processes import ProcessGroup


class Population:
    r"""Moments of all inputs of a layer, pooled exactly, and the uncertainty of their means.

    The standard error of a mean is that of the samples' own means, :math:`s / \sqrt n`: the positions within a sample
    are not independent values.

    >>> population = Population()
    >>> for batch in (torch.zeros(4, 1), torch.ones(1, 1)):
    ...     population.add(Moments.of(batch))
    >>> population.mean, population.var, population.samples
    (tensor([0.2000], dtype=torch.float64), tensor([0.2000], dtype=torch.float64), 5)
    """

    #: The number of channels that have no variance yet.
    _single = 1

    def __init__(self) -> None:
        self._pooled: Moments | None = None
        self._between: Moments | None = None
        self._batches: Moments | None = None

    def add(self, table: Moments) -> None:
        """Add the moments of one batch, ``[N, C]``."""
        held = table.count > 0 if isinstance(table.count, Tensor) else int(table.count > 0)
        self._pooled = _merged(self._pooled, self._over(table))
        samples = _of_numbers(table.mean, held).over_batch()
        self._between = _merged(self._between, samples)
        self._batches = _merged(self._batches, _of_numbers(samples.mean, samples.count))

    def over(self, group: ProcessGroup, like: Tensor) -> Population:
        """The population of all processes together, in each of them; a process without data must also call it."""
        zeros = torch.zeros_like(Moments.of(like.unsqueeze(0)).mean)
        nothing = Moments(zeros, zeros, 0)
        together = type(self)()
        together._pooled = (self._pooled or nothing).over_batch(group)
        together._between = (self._between or nothing).over_batch(group)
        together._batches = (self._batches or nothing).over_batch(group)
        return together

    @property
    def samples(self) -> int:
        if self._between is None:
            return 0
        count = self._between.count
        return round(float(count.max())) if isinstance(count, Tensor) else count

    @property
    def mean(self) -> Tensor:
        return self._seen(self._pooled).mean.squeeze(0)

    @property
    def var(self) -> Tensor:
        """The **unbiased** variance, as torch's buffers hold it."""
        return self._seen(self._pooled).unbiased_var().squeeze(0)

    @property
    def spread(self) -> Tensor:
        """The **biased** variance, by which training normalizes."""
        return self._seen(self._pooled).var.squeeze(0)

    def has_variance(self) -> bool:
        """Whether each channel has had more than one value."""
        count = 0 if self._pooled is None else self._pooled.count
        return bool((count > self._single).all()) if isinstance(count, Tensor) else count > self._single

    def uncertainty(self) -> float:
        """The standard error of the mean as a share of σ, for the least certain channel; inf for one sample."""
        between = self._seen(self._between)
        if self.samples < 2:
            return float("inf")
        error, deviation = (between.unbiased_var() / self.samples).sqrt(), self._deviation()
        share = torch.where(error > 0, error / deviation, 0)
        return float(share.max()) if share.numel() else 0.0

    def share_of_a_sample(self) -> float:
        r"""The effect of a sample on the mean of its batch, as a share of its own distance from the overall mean.

        It is the slope of the regression, :math:`\sum N(\mu_B - \mu)^2 / \sum(\mu_n - \mu)^2`, with every channel in
        units of its σ: 1/N for independent samples in batches of N.
        """
        sigma = self._deviation().square().clamp_min(torch.finfo(torch.float32).tiny)
        together, alone = (self._seen(table).var / sigma for table in (self._batches, self._between))
        total = float(alone.sum())
        return min(1.0, float(together.sum()) / total) if total > 0 else 0.0

    def _over(self, table: Moments) -> Moments:
        return table.over_batch()

    def _deviation(self) -> Tensor:
        return self._seen(self._pooled).var.sqrt()

    def _seen(self, table: Moments | None) -> Moments:
        if table is None:
            raise RuntimeError("A population without values has no moments.")
        return table


class InstancePopulation(Population):
    """The average over samples of their own means and unbiased variances, as in tracked InstanceNorm."""

    _single = 0

    def _over(self, table: Moments) -> Moments:
        seen = (table.count > 1).to(table.var) if isinstance(table.count, Tensor) else int(table.count > 1)
        return _of_numbers(table.unbiased_var(), seen).over_batch()

    @property
    def mean(self) -> Tensor:
        return self._seen(self._between).mean.squeeze(0)

    @property
    def var(self) -> Tensor:
        return self._seen(self._pooled).mean.squeeze(0)

    @property
    def spread(self) -> Tensor:
        return self.var

    def _deviation(self) -> Tensor:
        return (self._seen(self._between).var + self._seen(self._pooled).mean).sqrt()


def _of_numbers(values: Tensor, count: Tensor | int) -> Moments:
    """Each number as the mean of one value."""
    return Moments(values, torch.zeros_like(values), count)


def _merged(one: Moments | None, other: Moments) -> Moments:
    return other if one is None else one.merge(other)
