"""The output of a layer for a random input: its mean, variance and range."""

from __future__ import annotations

from typing import NamedTuple

import torch

from .measuring import Function


class Output(NamedTuple):
    """Moments of a random input with mean 0.5 and standard deviation 1.5, and of its output; variances are biased."""

    mean_before: float
    variance_before: float
    mean: float
    variance: float
    low: float
    high: float


def output_of(function: Function, shape: tuple[int, ...], device: torch.device) -> Output:
    generator = torch.Generator().manual_seed(0)
    x = (torch.randn(shape, generator=generator, dtype=torch.float64) * 1.5 + 0.5).to(device)
    with torch.no_grad():
        y = function(x, 1.0)
    # A mean that would be shown as −0.0 is 0.
    numbers = (x.mean(), x.var(correction=0), y.mean(), y.var(correction=0), y.min(), y.max())
    return Output(*(round(float(number), 4) + 0.0 for number in numbers))
