"""Normalizers that run on one tile with the statistics of the whole image."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..core.moments import Moments
from ..operations.measure import measure
from .sample_calls import call_of, normalizes_samples

#: A function that cuts out the part of a map whose statistics count.
Core = Callable[[Tensor], Tensor]


class Enough(Exception):  # noqa: N818 no error: the pass has measured enough
    """Ends a forward pass."""


class WholeImage:
    """The statistics of the per-sample normalizers of a model, call by call, pooled over tiles.

    ``known`` are the tables ``[N, C]`` of the first calls of a forward pass. Later calls measure; they then continue
    with the tile's own statistics, or, with ``stop``, end the pass. With ``pretend`` all statistics are 0 and 1.
    """

    def __init__(self, *, pretend: bool = False) -> None:
        self.pretend = pretend
        self.known: list[Moments] = []
        self._measured: list[Moments] = []
        self._call, self._stop = 0, False
        self._core: Core = lambda x: x

    @contextmanager
    def of(self, model: nn.Module) -> Iterator[None]:
        """Inside the block the layers of the model use these statistics."""
        layers = [layer for layer in model.modules() if normalizes_samples(layer)]
        for layer in layers:
            layer.forward = partial(self._forward, layer)
        try:
            yield
        finally:
            for layer in layers:
                del layer.forward

    def begin(self, core: Core, *, stop: bool) -> None:
        """Start the forward pass of one tile."""
        self._call, self._core, self._stop = 0, core, stop

    def pool(self) -> bool:
        """Move the statistics measured since the last call to ``known``; returns whether there were any."""
        found, self._measured = self._measured, []
        self.known += found
        return bool(found)

    def _forward(self, layer: nn.Module, *arguments: Any, **options: Any) -> Tensor:
        call = call_of(layer, *arguments, **options)
        number, self._call = self._call, self._call + 1
        table = self.known[number] if number < len(self.known) else None
        if self.pretend:
            zeros = call.x.new_zeros(call.x.shape[:2])
            table = Moments(zeros, torch.ones_like(zeros), 1)
        elif table is None:
            counted = None if call.mask is None else self._core(call.mask)
            self._measure(number - len(self.known), measure(self._core(call.x), counted))
            if self._stop:
                raise Enough
        return call.by(table)

    def _measure(self, index: int, table: Moments) -> None:
        if index < len(self._measured):
            self._measured[index] = self._measured[index].merge(table)
        else:
            self._measured.append(table)
