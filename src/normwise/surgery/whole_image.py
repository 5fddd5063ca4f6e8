"""Normalizers that see one tile and normalize by the whole image."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn

from ..core import formulas
from ..core.bound import bound
from ..core.moments import Moments
from ..layers._shared import FusedActivation, parameters_of
from ..layers.remembering import memory_of
from ..operations.measure import measure
from ..operations.normalize import normalize
from .given import home_of_forward

#: The part of a map whose statistics count.
Core = Callable[[Tensor], Tensor]
_HOMES = ("torch.", "normwise.layers.")


class Enough(Exception):  # noqa: N818 no error: what a pass was for has been seen
    """Ends a forward pass."""


class WholeImage:
    """The statistics of the per-sample normalizers of a model, call by call, pooled over tiles.

    ``known`` are the tables ``[N, C]`` of the first calls of a forward pass. The calls behind them measure, and go on
    by the tile's own statistics, or end the pass where ``stop`` says so. With ``pretend`` all are taken for 0 and 1.
    """

    def __init__(self, *, pretend: bool = False) -> None:
        self.pretend = pretend
        self.known: list[Moments] = []
        self._measured: list[Moments] = []
        self._call, self._stop = 0, False
        self._core: Core = lambda x: x

    @contextmanager
    def of(self, model: nn.Module) -> Iterator[None]:
        """Inside the block the layers ask here."""
        layers = [layer for layer in model.modules() if _normalizes_samples(layer)]
        for layer in layers:
            layer.forward = partial(self._forward, layer)
        try:
            yield
        finally:
            for layer in layers:
                del layer.forward

    def begin(self, core: Core, *, stop: bool) -> None:
        """A forward pass of one tile comes next."""
        self._call, self._core, self._stop = 0, core, stop

    def pool(self) -> bool:
        """Take what was measured since the last time for known; whether there was anything."""
        found, self._measured = self._measured, []
        self.known += found
        return bool(found)

    def _forward(self, layer: nn.Module, x: Tensor, residual: Tensor | None = None) -> Tensor:
        number, self._call = self._call, self._call + 1
        table = self.known[number] if number < len(self.known) else None
        if self.pretend:
            zeros = x.new_zeros(x.shape[:2])
            table = Moments(zeros, torch.ones_like(zeros), 1)
        elif table is None:
            self._measure(number - len(self.known), measure(self._core(x)))
            if self._stop:
                raise Enough
        formula = bound(formulas.instance_norm, eps=layer.eps)
        if isinstance(layer, nn.GroupNorm):
            formula = bound(formulas.group_norm, groups=layer.num_groups, eps=layer.eps)
        activation = layer.activation if isinstance(layer, FusedActivation) else None
        parameters = parameters_of(layer)
        return normalize(x, formula, *parameters, activation=activation, residual=residual, moments=table)

    def _measure(self, index: int, table: Moments) -> None:
        if index < len(self._measured):
            self._measured[index] = self._measured[index].merge(table)
        else:
            self._measured.append(table)


def _normalizes_samples(layer: nn.Module) -> bool:
    """GroupNorm and InstanceNorm without a memory, with the forward that we know."""
    if not isinstance(layer, (nn.GroupNorm, nn.modules.instancenorm._InstanceNorm)) or memory_of(layer) is not None:
        return False
    home = home_of_forward(layer)
    return home is not None and home.__module__.startswith(_HOMES)
