"""A signal in mean-field theory: in each channel, a function of a Gaussian."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

#: An elementwise function of values ``[points, C]``.
Pointwise = Callable[[Tensor], Tensor]

# 8 standard deviations in steps of 1/32: the error of the moments of a function with a kink, such as ReLU, is about
# 1e-4.
_Z = torch.linspace(-8, 8, 513, dtype=torch.float64)
_WEIGHTS = torch.exp(-0.5 * _Z.square())
_WEIGHTS = _WEIGHTS / _WEIGHTS.sum()


class Latent:
    """Standard normal values, independent from channel to channel.

    Two signals are functions of the same random values if and only if they share this object.
    """


@dataclass(frozen=True, eq=False)
class Padding:
    """The signal inside a padded one, and the padding, so that windows can treat the padding separately."""

    inside: Signal
    pairs: tuple[tuple[int, int], ...]
    value: float


@dataclass(frozen=True, eq=False)
class Signal:
    """A tensor of ``shape`` described by its distribution instead of its values.

    Along dimension ``axis``, channel c holds values ``function(mean_c + deviation_c z)`` of a ``latent`` z,
    independent of those of other positions and samples. ``mean[C]`` and ``variance[C]`` are the moments.
    """

    shape: torch.Size
    axis: int
    mean: Tensor
    variance: Tensor
    latent: Latent
    points: Callable[[], Tensor]
    """The values ``[points, C]`` at the quadrature points of z, in a new tensor."""
    normal: bool
    padded: Padding | None = None

    @classmethod
    def gaussian(cls, shape: Sequence[int], axis: int, mean: Tensor, variance: Tensor) -> Signal:
        """A new Gaussian with these moments per channel."""
        mean, variance = mean.double(), variance.double().clamp_min(0)

        def points() -> Tensor:
            return mean + variance.sqrt() * _Z.unsqueeze(1)

        return cls(torch.Size(shape), axis, mean, variance, Latent(), points, True)

    @classmethod
    def standard(cls, shape: Sequence[int], axis: int) -> Signal:
        """Independent standard normal values."""
        channels = torch.zeros(shape[axis], dtype=torch.float64)
        return cls.gaussian(shape, axis, channels, channels + 1)

    @classmethod
    def measured(cls, x: Tensor, axis: int) -> Signal:
        """A signal with the measured moments of a given tensor: an input, a position embedding."""
        values = x.detach().cpu().double().movedim(axis, 0).flatten(1)
        variance, mean = torch.var_mean(values, dim=1, correction=0)
        return cls.gaussian(x.shape, axis, mean, variance)

    @property
    def channels(self) -> int:
        return self.shape[self.axis]

    @property
    def positions(self) -> int:
        """Values per sample and channel."""
        return self.shape[1:].numel() // (self.channels if self.axis else 1)

    def apply(self, function: Pointwise) -> Signal:
        """A function of each value, by quadrature; it may differ between channels."""
        return self._with(lambda: function(self.points()))

    def together(self, other: Signal, function: Callable[[Tensor, Tensor], Tensor]) -> Signal:
        """A function of two functions of the same values, such as ``x * sigmoid(x)``."""
        return self._with(lambda: function(self.points(), other.points()))

    def _with(self, points: Callable[[], Tensor]) -> Signal:
        mean, variance = _moments(points(), _WEIGHTS.unsqueeze(1))
        return Signal(self.shape, self.axis, mean, variance, self.latent, points, False)

    def scaled(self, factor: Tensor | float, shift: Tensor | float = 0.0) -> Signal:
        """``factor * x + shift`` with numbers, or one for each channel: exact."""
        mean, variance = self.mean * factor + shift, self.variance * factor**2
        points = self.points
        return Signal(
            self.shape, self.axis, mean, variance, self.latent, lambda: points() * factor + shift, self.normal
        )

    def without_padding(self, value: float) -> tuple[Signal, Sequence[tuple[int, int]]]:
        """The signal inside a padding of ``value`` before and behind each dimension of space, and this padding."""
        if self.padded is None or self.padded.value != value:
            return self, [(0, 0)] * (len(self.shape) - 2)
        return self.padded.inside, self.padded.pairs

    def moved(
        self, mean: Tensor, variance: Tensor, shape: Sequence[int] | None = None, axis: int | None = None
    ) -> Signal:
        """A new Gaussian that replaces this signal."""
        axis = self.axis if axis is None else axis
        return Signal.gaussian(self.shape if shape is None else shape, axis, mean, variance)

    def along(self, axis: int) -> Signal:
        """The same tensor with another dimension as the channels (law of total variance)."""
        axis %= len(self.shape)
        if axis == self.axis:
            return self
        whole = torch.ones(self.shape[axis], dtype=torch.float64)
        mean = self.mean.mean()
        variance = self.variance.mean() + (self.mean - mean).square().mean()
        return self.moved(mean * whole, variance * whole, axis=axis)

    def maximum(self, counts: Sequence[tuple[int, float]], shape: Sequence[int]) -> Signal:
        """The largest of n values, for n of ``counts`` (n, share of the outputs): P(max <= v) = P(value <= v)^n."""
        values, order = self.points().sort(dim=0)
        below = _WEIGHTS[order].cumsum(0)
        reached = sum((share * below.pow(n) for n, share in counts), torch.zeros_like(below))
        mean, variance = _moments(values, torch.diff(reached, dim=0, prepend=torch.zeros_like(below[:1])))
        return self.moved(mean, variance, shape)


def _moments(values: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    mean = (weights * values).sum(0)
    return mean, (weights * (values - mean).square()).sum(0)


def add(a: Signal, b: Signal) -> Signal:
    """The sum of independent signals: means and variances add."""
    shape = torch.broadcast_shapes(a.shape, b.shape)
    mean, variance = a.mean + b.mean, a.variance + b.variance
    if (a.normal and b.normal) or not a.shape == b.shape == shape:
        return Signal.gaussian(shape, a.axis, mean, variance)
    for one, other in ((a, b), (b, a)):
        if not other.variance.any():
            return one.scaled(1.0, other.mean)
    table = _sum_of(a.points(), b.points(), mean, variance)
    return Signal(shape, a.axis, mean, variance, Latent(), table.clone, False)


def multiply(a: Signal, b: Signal) -> Signal:
    """The product of independent signals: second moments multiply."""
    mean = a.mean * b.mean
    variance = a.variance * b.variance + a.variance * b.mean.square() + b.variance * a.mean.square()
    return Signal.gaussian(torch.broadcast_shapes(a.shape, b.shape), a.axis, mean, variance)


_COARSE = slice(None, None, 16)


def _sum_of(a: Tensor, b: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    """Points of a new latent for the sum of independent values at the points of two: its quantiles.

    A shortcut that has passed a ReLU is far from normal, and so is its sum with a branch, on which the next ReLU
    acts. The distribution is that of a few hundred atoms; its moments are then made exact.
    """
    weights = _WEIGHTS[_COARSE] / _WEIGHTS[_COARSE].sum()
    atoms = a[_COARSE, None] + b[_COARSE]
    masses = (weights[:, None] * weights).flatten()
    atoms, order = atoms.flatten(0, 1).T.contiguous().sort(dim=1)
    below = masses[order].cumsum(1) - masses[order] / 2
    at = torch.special.ndtr(_Z).expand(len(atoms), -1).contiguous()
    right = torch.searchsorted(below, at).clamp(1, atoms.shape[1] - 1)
    (x0, x1), (p0, p1) = ((t.gather(1, right - 1), t.gather(1, right)) for t in (atoms, below))
    table = (x0 + (x1 - x0) * ((at - p0) / (p1 - p0)).clamp(0, 1)).T
    found_mean, found_variance = _moments(table, _WEIGHTS.unsqueeze(1))
    return (table - found_mean) * (variance / found_variance).nan_to_num(1.0, 1.0, 1.0).sqrt() + mean
