"""A layer that stays in evaluation, whatever mode its model is in."""

from __future__ import annotations

from torch import nn

#: The attribute of a layer that names the parameters whose gradients were switched off with its statistics.
FROZEN_PARAMETERS = "_frozen_parameters"


class KeepsStatistics:
    """The method `reset_running_stats` of a frozen layer, which does nothing; torch's `update_bn` calls it first."""

    def __call__(self) -> None:
        """Leave the statistics as they are."""


class StaysInEvaluation:
    """The method `train` of a frozen layer: it sets the mode of the layer's children and keeps the layer in evaluation.

    >>> layer = nn.BatchNorm1d(2)
    >>> StaysInEvaluation.freeze(layer)
    >>> layer.train().training
    False
    """

    def __init__(self, layer: nn.Module) -> None:
        self.layer, self.requested = layer, layer.training

    def __call__(self, mode: bool = True) -> nn.Module:
        self.requested = mode
        for child in self.layer.children():
            child.train(mode)
        return self.layer

    @classmethod
    def freeze(cls, layer: nn.Module) -> None:
        if not cls.holds(layer):
            layer.train = cls(layer)  # type: ignore[assignment]
            layer.reset_running_stats = KeepsStatistics()  # type: ignore[assignment]
            layer.training = False

    @classmethod
    def release(cls, layer: nn.Module) -> None:
        """Give the layer back its own `train`, and the mode that was requested last."""
        if cls.holds(layer):
            layer.training = vars(layer).pop("train").requested
            del layer.reset_running_stats

    @classmethod
    def holds(cls, layer: nn.Module) -> bool:
        return isinstance(vars(layer).get("train"), cls)
