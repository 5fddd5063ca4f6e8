"""Set the gains of the layers that replace normalizers, from the predicted variance in front of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ...signal.predicting import inputs_of
from ...signal.prediction.gaussian import Signal
from ...signal.prediction.graph import structure_of
from ...signal.prediction.modules import rule_of
from ...signal.prediction.options import Options
from ...signal.prediction.residuals import residuals_of
from ...signal.prediction.walk import walk
from ...signal.protection import on_cpu
from .standardizing import gain_of, own_size


class Remembered(NamedTuple):
    """A removed normalizer in evaluation: ``scale · x + shift`` of each channel, in fp64."""

    scale: Tensor
    shift: Tensor


class Start(NamedTuple):
    """The data of a folded start: for layers the plain layer and its normalizer, for affine layers their normalizer.

    Empty for a fresh start, in which all gains are set for unit variance.
    """

    layers: Mapping[nn.Module, tuple[nn.Module, Remembered | None]]
    affines: Mapping[nn.Module, Remembered]
    folded: bool


class Sizing:
    """Follow the signal once through the net, and set the gain of each module before the signal passes it."""

    def __init__(
        self, layers: Set[nn.Module], affines: Set[nn.Module], skips: Set[nn.Module], start: Start, alpha: float
    ) -> None:
        self._kinds: list[tuple[Set[nn.Module], Callable[[Any, Signal], None]]] = [
            (layers, self._size_layer),
            (affines, self._size_affine),
            (skips, self._size_skip),
        ]
        self._start, self._alpha = start, alpha
        self._options = Options(None if start.folded else 1.0, True)
        self._done: set[nn.Module] = set()
        self._written: list[tuple[nn.Module, str, Tensor]] = []

    @torch.no_grad()
    def run(self, model: nn.Module, example: Any) -> dict[str, float]:
        """Set all gains; returns β of each block, one over the predicted standard deviation at its input."""
        with on_cpu(model):
            structure = structure_of(model)
            values = walk(structure, inputs_of(model, example), self._options, self._before)
            inputs = {r.name: values[r.origin].variance.mean().item() for r in residuals_of(structure, values)}
        for holder, name, value in self._written:
            tensor: Any = getattr(holder, name)
            tensor.copy_(value)
        return {name: variance**-0.5 if variance > 0 else float("inf") for name, variance in inputs.items()}

    def _before(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        for members, size in self._kinds:
            if module in members and module not in self._done:
                self._done.add(module)
                size(module, args[0])

    def _write(self, holder: nn.Module, name: str, value: Tensor | float) -> None:
        tensor: Any = getattr(holder, name)
        tensor.copy_(torch.as_tensor(value, dtype=torch.float64).expand_as(tensor))
        self._written.append((holder, name, tensor.clone()))

    def _size_layer(self, layer: nn.Module, x: Signal) -> None:
        holder, gamma = gain_of(layer)
        if not self._start.folded:
            self._write(holder, "gain", 1 / gamma)
            self._write(holder, "gain", _for_unit(self._through(layer, x).variance) / gamma)
            return
        plain, was = self._start.layers[layer]
        scale = torch.ones(()) if was is None else was.scale
        self._write(holder, "gain", scale * own_size(layer) / gamma)
        # The mean of the weights is lost; its contribution to the mean of the output is added to the bias.
        self._write(layer, "bias", 0.0)
        lost = scale * self._through(plain, x).mean - self._through(layer, x).mean
        self._write(layer, "bias", lost if was is None else lost + was.shift)

    def _size_affine(self, affine: nn.Module, x: Signal) -> None:
        was = self._start.affines.get(affine)
        x = x.along(affine.axis)  # type: ignore[arg-type]
        self._write(affine, "weight", _for_unit(x.variance) if was is None else was.scale)
        self._write(affine, "bias", 0.0 if was is None else was.shift)

    def _size_skip(self, skip: nn.Module, x: Signal) -> None:
        alpha = self._alpha * _for_unit(x.variance)
        self._write(skip, "alpha", alpha)
        if self._start.folded:
            self._write(skip, "gain", 1 / alpha)

    def _through(self, layer: nn.Module, x: Signal) -> Signal:
        rule = rule_of(layer)
        assert rule is not None  # the plan takes no other
        return rule(layer, self._options, x)


def _for_unit(variance: Tensor) -> float:
    """The factor that makes the mean variance of the channels 1; 1 where there is nothing to scale."""
    mean = variance.mean().item()
    return mean**-0.5 if 0 < mean < float("inf") else 1.0
