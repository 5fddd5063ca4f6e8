"""The distance of the outputs of a model or a layer from their earlier values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..core.precision import in_fp64
from ..signal.batches import copied, run
from ..signal.inputs import device_of
from ..signal.modules import tensors_in
from .hooks import hooked
from .surveying import on_loan


class Distance(NamedTuple):
    """``drift``: the root mean square of the difference divided by that of the old output. ``agreement``: the share of
    samples with the same largest output, for outputs ``[N, K]``."""

    drift: float
    agreement: float | None


class Example:
    """A batch and a model's output for it in evaluation; ValueError for a batch that shows nothing."""

    def __init__(self, model: nn.Module, batch: Any, caller: str) -> None:
        given = list(tensors_in(batch))
        if not any(t.numel() for t in given):
            raise ValueError(f"{caller}: the example is empty; give at least one sample.")
        if any(bool(t.isnan().any()) for t in given if t.is_floating_point()):
            raise ValueError(
                f"{caller}: the example holds NaN, with which nothing can be compared; leave such samples out or fill "
                "them in."
            )
        self._batch = batch
        self._outputs = self._run(model)

    def distance(self, model: nn.Module) -> Distance:
        """Between the model as it is now and as it was."""
        return distance(self._outputs, self._run(model))

    def _run(self, model: nn.Module) -> list[Tensor]:
        return [t.clone() for t in tensors_in(_output(model, self._batch)) if t.is_floating_point()]


def _output(model: nn.Module, batch: Any) -> Any:
    with on_loan(model):
        return run(model, copied(batch, device_of(model), torch.clone))


def ranks_of(model: nn.Module, layers: list[nn.Module], batch: Any) -> dict[nn.Module, int]:
    """The number of spatial dimensions of each layer's input."""
    ranks: dict[nn.Module, int] = {}

    def hear(layer: nn.Module, arguments: tuple[Any, ...]) -> None:
        ranks[layer] = arguments[0].dim() - 2

    with hooked([layer.register_forward_pre_hook(hear) for layer in layers]):
        _output(model, batch)
    return ranks


def local_drifts(model: nn.Module, successors: Mapping[nn.Module, nn.Module], batch: Any) -> dict[nn.Module, float]:
    """The drift of each successor's output from the old layer's, for the input of the layer in the old model."""
    found: dict[nn.Module, float] = {}

    def compare(layer: nn.Module, arguments: Any, named: Any, output: Tensor) -> None:
        new = successors[layer].eval()
        found[layer] = max(found.get(layer, 0.0), distance([output], [new(*arguments, **named)]).drift)

    with hooked([layer.register_forward_hook(compare, with_kwargs=True) for layer in successors]):
        _output(model, batch)
    return found


def distance(old: list[Tensor], new: list[Tensor]) -> Distance:
    if [t.shape for t in old] != [t.shape for t in new]:
        raise ValueError("The drift needs outputs of the same shapes as before, and the model's have other ones.")
    moved = sum(float((in_fp64(b) - in_fp64(a)).square().sum()) for a, b in zip(old, new, strict=True))
    size = sum(float(in_fp64(a).square().sum()) for a in old)
    drift = (moved / size) ** 0.5 if size else float("inf") if moved else 0.0
    return Distance(drift, _agreement(old, new))


def _agreement(old: list[Tensor], new: list[Tensor]) -> float | None:
    if len(old) != 1 or old[0].dim() != 2 or old[0].shape[1] < 2 or len(old[0]) == 0:
        return None
    return float((old[0].argmax(1) == new[0].argmax(1)).double().mean())
