"""The values that a window reads at each output position: borders and strides of convolutions and pooling."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from functools import reduce
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Windows(NamedTuple):
    """One boolean matrix ``[kernel, outputs]`` per spatial dimension: whether that tap reads a value, not padding."""

    seen: tuple[Tensor, ...]

    @property
    def size(self) -> tuple[int, ...]:
        """Spatial size of the output."""
        return tuple(seen.shape[1] for seen in self.seen)

    def share(self) -> Tensor:
        """The share of output positions at which each tap ``[kernel]`` reads a value."""
        return reduce(torch.kron, [seen.double().mean(1) for seen in self.seen])

    def shared(self) -> Tensor:
        """The share of output positions at which both of two taps ``[kernel, kernel]`` read a value."""
        return reduce(torch.kron, [seen.double() @ seen.double().T / seen.shape[1] for seen in self.seen])

    def counts(self) -> list[tuple[int, float]]:
        """The possible numbers of values in a window, each with its share of the output positions."""
        return [(n, share) for (n,), share in joint_counts(self)]


def joint_counts(*windows: Windows) -> list[tuple[tuple[int, ...], float]]:
    """The numbers of values in several windows at the same position, each combination with its share."""
    found = Counter({(1,) * len(windows): 1})
    for seen in zip(*(w.seen for w in windows), strict=True):
        here = Counter(zip(*(s.sum(0).tolist() for s in seen), strict=True))
        products = Counter[tuple[int, ...]]()
        for (a, times), (b, more) in itertools.product(found.items(), here.items()):
            products[tuple(n * m for n, m in zip(a, b, strict=True))] += times * more
        found = products
    return [(counts, times / found.total()) for counts, times in sorted(found.items())]


def tuple_of(value: int | Sequence[int], rank: int) -> tuple[int, ...]:
    """torch's "a number or one for each dimension"."""
    return (value,) * rank if isinstance(value, int) else tuple(value)


def convolution_windows(
    size: Sequence[int],
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[tuple[int, int]],
    dilation: Sequence[int],
    zeros: bool,
) -> Windows:
    """The windows of a convolution. `padding`: before and behind; padding by other values than zeros counts as
    signal."""
    seen = []
    for length, k, s, (before, behind), d in zip(size, kernel, stride, padding, dilation, strict=True):
        outputs = (length + before + behind - d * (k - 1) - 1) // s + 1
        seen.append(_inside(length, k, s, before, d, outputs) if zeros else torch.ones(k, outputs, dtype=torch.bool))
    return Windows(tuple(seen))


def transposed_windows(
    size: Sequence[int],
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    output_padding: Sequence[int],
) -> Windows:
    """The windows of a transposed convolution: with stride s, each output position has only every s-th tap."""
    seen = []
    for length, k, s, p, d, more in zip(size, kernel, stride, padding, dilation, output_padding, strict=True):
        outputs = (length - 1) * s - 2 * p + d * (k - 1) + more + 1
        source = torch.arange(outputs) + p - d * torch.arange(k).unsqueeze(1)
        seen.append((source % s == 0) & (source >= 0) & (source < length * s))
    return Windows(tuple(seen))


def pooling_windows(
    size: Sequence[int],
    outputs: Sequence[int],
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> Windows:
    """The windows of max or average pooling; `outputs` is given, because pooling has options for its rounding."""
    dimensions = zip(size, outputs, kernel, stride, padding, dilation, strict=True)
    return Windows(tuple(_inside(length, k, s, p, d, n) for length, n, k, s, p, d in dimensions))


def padded_windows(
    size: Sequence[int], outputs: Sequence[int], kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int]
) -> Windows:
    """The same with padding counted as values, but not the positions that rounding up adds behind it."""
    whole = [length + 2 * p for length, p in zip(size, padding, strict=True)]
    none = (0,) * len(whole)
    return pooling_windows(whole, outputs, kernel, stride, none, (1,) * len(whole))


def adaptive_windows(size: Sequence[int], outputs: Sequence[int]) -> Windows:
    """The windows of adaptive pooling: from floor(i L / n) to ceil((i + 1) L / n)."""
    seen = []
    for length, n in zip(size, outputs, strict=True):
        where, output = torch.arange(length).unsqueeze(1), torch.arange(n)
        seen.append((where >= output * length // n) & (where < -((output + 1) * length // -n)))
    return Windows(tuple(seen))


def _inside(length: int, kernel: int, stride: int, before: int, dilation: int, outputs: int) -> Tensor:
    where = torch.arange(outputs) * stride - before + dilation * torch.arange(kernel).unsqueeze(1)
    return (where >= 0) & (where < length)


def padding_of(conv: nn.modules.conv._ConvNd) -> list[tuple[int, int]]:
    """Padding before and behind, for each spatial dimension, of a convolution module."""
    pairs = conv._reversed_padding_repeated_twice
    return [(pairs[i], pairs[i + 1]) for i in range(len(pairs) - 2, -1, -2)]


def resized_power(length: int, outputs: int, align_corners: bool | None) -> float:
    """The mean over the outputs of the sum of squared weights that linear interpolation gives their sources."""
    sources = torch.eye(length, dtype=torch.float64).unsqueeze(1)
    weights = F.interpolate(sources, size=outputs, mode="linear", align_corners=align_corners)
    return weights.square().sum(0).mean().item()
