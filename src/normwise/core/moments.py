"""The table of moments, and pooling: the only operation on it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .history import without_history
from .precision import table_dtype
from .processes import ProcessGroup, gather

Count = int | Tensor
Average = Callable[[Tensor], Tensor]


class Moments(NamedTuple):
    r"""Mean and variance of each (sample, channel) plane of ``x[N, C, *space]``.

    .. math:: \text{mean}_{nc} = \frac1S \sum_s x_{ncs}, \qquad
              \text{var}_{nc} = \frac1S \sum_s (x_{ncs} - \text{mean}_{nc})^2

    Every normalizer pools this small table over some of its axes (the law of total variance), weighted by
    the counts:

    .. math:: \text{mean} = \overline{\text{mean}_i}, \qquad
              \text{var} = \overline{\text{var}_i + (\text{mean}_i - \text{mean})^2}

    This is exact, needs no second look at ``x``, and never cancels: all terms of the variance are positive.

    Shapes: ``mean`` and ``var`` are ``[N, C]``, and a pooled table keeps a size that broadcasts against it
    (``[1, C]`` over the batch, ``[N, 1]`` over the channels, ``[N, C]`` over groups and chunks).
    ``var`` is **biased** (divided by the count). ``count`` is the number of values behind each entry: one
    number for all of them (in a recording a tensor without dimensions), or a tensor that broadcasts against ``mean``
    where masks or uneven shards make them differ. An entry with count 0 has mean 0 and variance 0 and takes no part in
    any pool.

    The big tensor is summed in fp32 (fp64 for fp64 input), but the table itself is fp64 wherever the device
    has fp64. That costs nothing on a table this small, and where the mean is a thousand standard deviations
    the rounding of an fp32 mean would be most of the output's error. Elsewhere the table is fp32, and the rounding
    errors of the means are kept beside it (`PairedMoments`).

    >>> x = torch.arange(24, dtype=torch.float64).reshape(2, 3, 4)
    >>> table = Moments.of(x)
    >>> torch.allclose(table.over_batch().var.flatten(), x.var((0, 2), correction=0))
    True
    >>> torch.allclose(table.over_channels().mean.flatten(), x.mean((1, 2)), atol=1e-6)
    True
    """

    mean: Tensor
    var: Tensor
    count: Count

    @classmethod
    def of(cls, x: Tensor, mask: Tensor | None = None) -> Moments:
        """Measure ``x[N, C, *space]`` in exact passes with plain PyTorch operations.

        ``mask`` is boolean, broadcasts against ``x``, and keeps the values where it is true.
        """
        planes = widen(x).flatten(2) if x.dim() > 2 else widen(x).unsqueeze(-1)
        if mask is not None:
            return cls._of_masked(planes, mask.flatten(2) if mask.dim() > 2 else mask.unsqueeze(-1))
        if planes.shape[-1] == 0:
            zeros = planes.new_zeros(planes.shape[:2], dtype=table_dtype(x))
            return cls(zeros, zeros, 0)
        return _measured(planes, lambda t: t.mean(-1), planes.shape[-1])

    @classmethod
    def _of_masked(cls, planes: Tensor, mask: Tensor) -> Moments:
        mask = mask.expand(planes.shape[0], mask.shape[1], planes.shape[2])
        count = mask.sum(-1, dtype=table_dtype(planes))
        divisor = count.clamp_min(1).to(planes.dtype)

        def average(t: Tensor) -> Tensor:
            # `where`, not a product: a NaN in the padding must not leak into the sums.
            return torch.where(mask, t, 0).sum(-1) / divisor

        return _measured(planes, average, count)

    @property
    def rest(self) -> Tensor | None:
        """The rounding errors of the means, to be added to them, where they are known; no gradient passes them."""
        return None

    def away_from(self, other: Moments) -> Tensor:
        """The means minus those of ``other``, with an error that is small against the difference.

        >>> x = torch.arange(24.0).reshape(2, 3, 4)
        >>> table = Moments.of(x)
        >>> table.away_from(table.over_channels())[0]
        tensor([-4.,  0.,  4.], dtype=torch.float64)
        """
        away = self.mean - other.mean
        if self.rest is not None:
            away = away + self.rest
        return away if other.rest is None else away - other.rest

    def over_batch(self, processes: ProcessGroup | None = None) -> Moments:
        """Pool over the samples: one entry per channel, ``[1, C]`` (batch normalization).

        With a group of ``processes``, over all of their samples: every process gets the same entries, and the
        gradient of each flows back to all. Each process is weighted by the values that it holds, which may be none.
        """
        local = self._pool(0)
        if processes is None:
            return local
        return _table(gather(torch.stack(local._as_tensors()), processes).unbind(1))._pool(0).squeezed(0)

    def over_channels(self) -> Moments:
        """Pool over the channels: one entry per sample, ``[N, 1]`` (layer normalization)."""
        return self._pool(1)

    def over_groups(self, groups: int) -> Moments:
        """Pool over ``groups`` runs of neighbouring channels, given back for each channel, ``[N, C]``."""
        if groups == self.mean.shape[1]:
            return self
        size = self.mean.shape[1] // groups
        pooled = self._split_channels(groups)._pool(2)
        return pooled._map(lambda t: t.expand(-1, -1, size).flatten(1))

    def over_chunks(self, size: int) -> Moments:
        """Pool over chunks of ``size`` samples, given back for each sample, ``[N, C]`` (ghost batches).

        The last chunk is smaller where ``size`` does not divide the batch. If it would have a single value per channel,
        which is its own mean, it joins the chunk before it.
        """
        samples = self.mean.shape[0]
        if size == 1 or samples == 0:
            return self
        rest = samples % size
        whole = samples - rest
        if rest == 1 and not isinstance(self.count, Tensor) and self.count == 1 and whole:
            whole -= size
        parts = []
        if whole:
            chunks = self._map(lambda t: t[:whole].unflatten(0, (-1, size)) if t.shape[0] != 1 else t[None])
            parts.append(chunks._pool(1)._map(lambda t: t.expand(-1, size, -1).flatten(0, 1)))
        if whole < samples:
            tail = self._map(lambda t: t[whole:] if t.shape[0] != 1 else t)
            parts.append(tail._pool(0)._map(lambda t: t.expand(samples - whole, -1)))
        return parts[0] if len(parts) == 1 else concatenate(parts)

    def merge(self, other: Moments) -> Moments:
        """Pool two tables entry by entry: shards, micro-batches, or running statistics of clients.

        >>> x = torch.randn(6, 3, 5)
        >>> halves = Moments.of(x[:2]).over_batch().merge(Moments.of(x[2:]).over_batch())
        >>> torch.allclose(halves.var, Moments.of(x).over_batch().var, atol=1e-6)
        True
        """
        return stack([self, other])._pool(0).squeezed(0)

    def unbiased_var(self) -> Tensor:
        """The variance divided by count - 1 (Bessel); with a count of 1 or less the biased one."""
        if isinstance(self.count, Tensor):
            count = self.count.to(self.var.dtype)  # the quotient of two integers would be fp32
            return self.var * (count / (count - 1).clamp_min(1))
        return self.var * (self.count / max(self.count - 1, 1))

    def detached(self) -> Moments:
        """The same table without its history."""
        return self._map(Tensor.detach)

    def without_history(self) -> Moments:
        """The same table as constants, in forward mode of differentiation, too; see `core.history`."""
        return self._map(without_history)

    def squeezed(self, axis: int) -> Moments:
        """The same table without an axis of size 1."""
        return self._map(lambda t: t.squeeze(axis))

    def _as_tensors(self) -> tuple[Tensor, ...]:
        """Mean, variance and counts, all of the same shape and dtype."""
        count = self.count.to(self.mean) if isinstance(self.count, Tensor) else self.mean.new_full((), self.count)
        return self.mean, self.var, count.expand_as(self.mean)

    def _is_even(self) -> bool:
        """Whether all entries have the same count."""
        return not isinstance(self.count, Tensor) or self.count.dim() == 0

    def _pool(self, axis: int) -> Moments:
        """Pool by the law of total variance over one axis of the table, which stays with size 1."""
        average, count = self._average_over(axis)
        mean = average(self.mean)
        return Moments(mean, average(self.var + (self.mean - mean).square()), count)

    def _average_over(self, axis: int) -> tuple[Average, Count]:
        """A function that averages over an axis, weighted by the counts, and the counts of its results."""
        size = self.mean.shape[axis]
        if self._is_even() and size > 0:
            return lambda t: t.mean(axis, keepdim=True), self.count * size
        weight = self._as_tensors()[2]
        total = weight.sum(axis, keepdim=True)
        weight = weight / torch.where(total > 0, total, 1)
        return lambda t: (weight * t).sum(axis, keepdim=True), total

    def _split_channels(self, groups: int) -> Moments:
        return self._map(lambda t: t.unflatten(1, (groups, -1)) if t.shape[1] != 1 else t.unsqueeze(-1))

    def _map(self, change) -> Moments:
        count = change(self.count) if isinstance(self.count, Tensor) and self.count.dim() else self.count
        return Moments(change(self.mean), change(self.var), count)


class PairedMoments(Moments):
    """A table in fp32, for a device without fp64: the means are the sums ``mean + rest`` of two numbers each.

    ``mean`` alone is the mean rounded to fp32, off by up to 6e-8 of its own size. That is nothing for most uses, but
    most of the error where a mean of many standard deviations is subtracted: `away_from` and `formulas.standardized`
    therefore add the rest.

    >>> third, zero = torch.tensor([[1 / 3]]), torch.zeros(1, 1)
    >>> table = PairedMoments.corrected(torch.tensor([[1000.0]]), third, zero, 1)
    >>> table.mean.item() - 1000, (table.mean - 1000 + table.rest - third).item()
    (0.33331298828125, 0.0)
    """

    _rest: Tensor

    def __new__(cls, mean: Tensor, var: Tensor, count: Count, rest: Tensor) -> PairedMoments:
        table = super().__new__(cls, mean, var, count)
        table._rest = rest.detach()
        return table

    def __getnewargs__(self) -> tuple[Any, ...]:
        return *self, self.rest

    @property
    def rest(self) -> Tensor:
        return self._rest

    @classmethod
    def corrected(cls, mean: Tensor, correction: Tensor, var: Tensor, count: Count) -> PairedMoments:
        """The table of the means ``mean + correction``; the correction is small and has no gradient."""
        rounded = mean + correction
        return cls(rounded, var, count, correction - (rounded - mean))

    def _as_tensors(self) -> tuple[Tensor, ...]:
        return *super()._as_tensors(), self.rest

    def _pool(self, axis: int) -> Moments:
        average, count = self._average_over(axis)
        mean = average(self.mean)
        # The rounding error of the average, from numbers as small as the differences between the means.
        correction = average((self.mean - mean + self.rest).detach())
        pooled = PairedMoments.corrected(mean, correction, self.var, count)
        return pooled._replace(var=average(self.var + self.away_from(pooled).square()))

    def _map(self, change: Callable[[Tensor], Tensor]) -> Moments:
        return PairedMoments(*super()._map(change), change(self.rest))

    def _replace(self, **changes: Any) -> PairedMoments:
        return PairedMoments(*Moments(*self)._replace(**changes), self.rest)


def _measured(planes: Tensor, average: Average, count: Count) -> Moments:
    """Average, then average the remainders of the first average (its rounding error), then the squares around both.

    The rest is small, and so is its error. It corrects a rounding, not the value, so no gradient passes it.
    """
    dtype, mean = table_dtype(planes), average(planes)
    centered = planes - mean.unsqueeze(-1)
    rest = average(centered.detach())
    var = average((centered - rest.unsqueeze(-1)).square())
    if dtype is torch.float32:
        return PairedMoments.corrected(mean, rest, var, count)
    return Moments(mean.to(dtype) + rest, var.to(dtype), count)


def stack(tables: list[Moments]) -> Moments:
    """Put tables of one shape behind each other on a new first axis, with a count for each entry."""
    return _table([torch.stack(column) for column in _columns(tables)])


def concatenate(tables: list[Moments]) -> Moments:
    """Put the rows of tables behind each other, with a count for each entry."""
    return _table([torch.cat(column) for column in _columns(tables)])


def _columns(tables: list[Moments]) -> Iterable[tuple[Tensor, ...]]:
    """Means, variances and counts; the rests, too, if all tables have them."""
    return zip(*(t._as_tensors() for t in tables), strict=False)


def _table(columns: Sequence[Tensor]) -> Moments:
    return Moments(*columns) if len(columns) == 3 else PairedMoments(*columns)


def statistics_dtype(dtype: torch.dtype) -> torch.dtype:
    """fp64 for fp64, fp32 for everything narrower."""
    return torch.float64 if dtype is torch.float64 else torch.float32


def epsilon(x: Tensor, eps: float | None) -> float:
    """``eps``; for None the machine epsilon of the dtype in which statistics of ``x`` are computed."""
    if eps is not None:
        return eps
    return torch.finfo(statistics_dtype(x.dtype) if isinstance(x, Tensor) else torch.float32).eps


def widen(x: Tensor) -> Tensor:
    """``x`` in the dtype in which its statistics are accumulated."""
    return x.to(statistics_dtype(x.dtype))
