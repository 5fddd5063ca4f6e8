"""Measurements of activations, and taps from the measurements of any number of batches."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from normwise.core.moments import Moments

from .histogram import Bins
from .records import Kind, Tap
from .statistics import channel_moments, constant_channels, mean_square


class Reading:
    """The measurements of one activation; the gradient is added in the backward pass."""

    def __init__(self, x: Tensor, axis: int, *, histogram: bool) -> None:
        self.shape = tuple(x.shape)
        self.axis = axis
        self.dtype = x.dtype
        self.table, self.nonfinite = channel_moments(x, axis)
        self.bins = Bins.of(x) if histogram else None
        self.gradient: float | None = None
        self.listens = False

    def listen(self, x: Tensor, heard: Callable[[], None]) -> None:
        """Measure the gradient in the backward pass, and call ``heard`` then."""
        self.listens = True

        def hear(gradient: Tensor | None) -> None:
            if gradient is not None:  # operators of other libraries return None for an undefined gradient
                self.gradient = mean_square(gradient)
                heard()

        x.register_hook(hear)


class TapReadings:
    """The readings of one place, pooled one by one, so the memory is that of a single table of the channels."""

    def __init__(self, name: str, kind: Kind, type_name: str, first: Reading, part: str = "") -> None:
        self.name = name
        self.kind: Kind = kind
        self.type_name = type_name
        self.part = part
        self._first = first
        self._table = first.table
        self._nonfinite = first.nonfinite
        self._bins = first.bins
        self._gradient = first.gradient
        self._gradient_values = math.prod(first.shape)
        self.left_out = 0

    def add(self, reading: Reading) -> None:
        """Pool another batch; a batch with another number of channels is left out and counted."""
        if reading.table.mean.shape != self._table.mean.shape:
            self.left_out += 1
            return
        self._table = self._table.merge(reading.table)
        self._nonfinite += reading.nonfinite
        if self._bins is not None and reading.bins is not None:
            self._bins = self._bins.merge(reading.bins)
        if self._gradient is not None and reading.gradient is not None:
            values = math.prod(reading.shape)
            total = self._gradient_values + values
            self._gradient += (reading.gradient - self._gradient) * values / total
            self._gradient_values = total

    def tap(self) -> Tap:
        mean, var, count = self._table.mean.cpu(), self._table.var.cpu(), torch.as_tensor(self._table.count).cpu()
        seen = (count > 0).expand_as(mean)
        table = Moments(mean, var, count)
        several = bool((count > 1).any())
        return Tap(
            self.name,
            self.kind,
            self.type_name,
            self._first.shape,
            mean[seen].square().mean().item(),
            var[seen].mean().item(),
            constant_channels(table, self._first.dtype) / mean.numel() if several else 0.0,
            self._nonfinite,
            self._gradient,
            None if self._bins is None else self._bins.histogram(),
            self._first.axis,
            self.part,
        )
