"""Style transfer by optimization of the picture's pixels."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import InputError
from .features import LEAST_SIDE, Features
from .losses import StyleTargets, content_loss, energy, style_loss, style_targets, total_variation
from .pictures import fitted, resized

#: From coarse to fine: the side of each scale relative to that of the finest, and its share of the steps.
SCALES = ((0.25, 0.4), (0.5, 0.35), (1.0, 0.25))
COARSEST = 96
HISTORY = 10
#: Approximate peak memory per pixel in bytes, with VGG-16 up to relu4_1: a process that painted 512×342 pixels took
#: 1.09 GB.
BYTES_PER_PIXEL = 4000


class Weights(NamedTuple):
    """The weights of the parts of the loss; each part is relative to its target."""

    content: float = 1.0
    style: float = 10.0
    smoothness: float = 0.1


class Painting(NamedTuple):
    """An intermediate result: the best picture so far, ``[3, H, W]`` at the final size."""

    done: int
    total: int
    content: float
    style: float
    pixels: Tensor


def optimize(
    content: Tensor, style: Tensor, features: Features, steps: int, weights: Weights, loss: str = "gram"
) -> Iterator[Painting]:
    """The intermediate pictures from a content ``[3, H, W]`` to its painting in a style, one for each step.

    L-BFGS starts from the content at a quarter of the size, continues with the enlarged result at half the size and
    then at the full size: this gives strokes of all sizes, and most steps are cheap.

    Source: Gatys, Ecker and Bethge 2016, CVPR; coarse to fine: Gatys et al. 2017, arXiv:1611.07865.
    """
    whole, done = (content.shape[1], content.shape[2]), 0
    found = content.unsqueeze(0)
    for longest, count in _scales(max(whole), steps):
        smaller = resized(content.unsqueeze(0), fitted(whole, longest))
        problem = _Problem(smaller, _style_for(style.unsqueeze(0), longest), features, weights, loss)
        for part in _descend(resized(found, fitted(whole, longest)), problem, count):
            done += 1
            found = part.pixels
            yield Painting(done, steps, part.content, part.style, resized(found, whole)[0])


def _style_for(style: Tensor, longest: int) -> Tensor:
    """The style picture, reduced to at most the size of the content, so that its strokes are visible at every scale."""
    sizes = fitted((style.shape[2], style.shape[3]), min(longest, max(style.shape[2:])))
    return resized(style, (max(LEAST_SIDE, sizes[0]), max(LEAST_SIDE, sizes[1])))


class _Found(NamedTuple):
    content: float
    style: float
    pixels: Tensor


class _Problem:
    """The loss of a picture at one scale."""

    def __init__(self, content: Tensor, style: Tensor, features: Features, weights: Weights, loss: str) -> None:
        self._features, self._weights, self._loss = features, weights, loss
        with torch.no_grad():
            self._content = features(content, (features.content,))[features.content]
            maps = features(style)
            self._style: StyleTargets = style_targets(maps, features.style, loss)
            self._energy = energy(maps[features.content])

    def __call__(self, pixels: Tensor) -> tuple[Tensor, float, float]:
        maps = self._features(pixels)
        content = content_loss(maps[self._features.content], self._content, self._energy)
        style = style_loss(maps, self._style, self._loss)
        weights = self._weights
        total = weights.content * content + weights.style * style + weights.smoothness * total_variation(pixels)
        return total, content.item(), style.item()


def _descend(start: Tensor, problem: _Problem, steps: int) -> Iterator[_Found]:
    """The best picture after each evaluation of the loss."""
    pixels = start.detach().clone(memory_format=torch.contiguous_format).requires_grad_()
    optimizer = torch.optim.LBFGS([pixels], max_iter=1, history_size=HISTORY, tolerance_grad=0.0, tolerance_change=0.0)
    best, lowest = _Found(math.inf, math.inf, pixels.detach().clone()), math.inf

    def evaluate() -> Tensor:
        nonlocal best, lowest
        optimizer.zero_grad()
        total, content, style = problem(pixels)
        total.backward()
        if total.item() < lowest:
            lowest, best = total.item(), _Found(content, style, pixels.detach().clone())
        return total

    for _ in range(steps):
        optimizer.step(evaluate)
        with torch.no_grad():
            pixels.clamp_(0, 1)
        yield best


def _scales(size: int, steps: int) -> list[tuple[int, int]]:
    """The longer side and the number of steps of each scale; the finest has the rest of the steps."""
    sides = [(round(size * part), share) for part, share in SCALES if size * part >= COARSEST or part == 1]
    whole = sum(share for _, share in sides)
    counts = [int(steps * share / whole) for _, share in sides[:-1]]
    return [(side, n) for (side, _), n in zip(sides, [*counts, steps - sum(counts)], strict=True) if n]


def check_memory_for(sizes: tuple[int, int]) -> None:
    """Raise InputError for a picture whose optimization needs more memory than this machine has."""
    needed, there = sizes[0] * sizes[1] * BYTES_PER_PIXEL, _memory()
    if there is not None and needed > there:
        longest = int(max(sizes) * math.sqrt(there / needed) / 2)
        raise InputError(
            f"{sizes[0]}x{sizes[1]} pixels by optimization need about {needed / 2**30:.0f} GiB of memory, this machine "
            f"has {there / 2**30:.0f}; write --size {longest}, or train a net, which paints any size tile by tile."
        )


def _memory() -> int | None:
    """The memory of this machine in bytes; None if it is unknown."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return None
