"""A layer that stays in evaluation, whatever mode its model is in."""

from __future__ import annotations

from torch import nn

#: The attribute of a layer that names the parameters whose gradients were switched off with its statistics.
FROZEN_PARAMETERS = "_frozen_parameters"


class KeepsStatistics:
    """The method `reset_running_stats` of a frozen layer, which torch's `update_bn` calls first."""

    def __call__(self) -> None:
        """Nothing is reset."""


class StaysInEvaluation:
    """The method `train` of a frozen layer: what is inside the layer gets the mode, the layer itself stays.

    >>> layer = nn.BatchNorm1d(2)
    >>> StaysInEvaluation.freeze(layer)
    >>> layer.train().training
    False
    """

    def __init__(self, layer: nn.Module) -> None:
        self.layer, self.asked = layer, layer.training

    def __call__(self, mode: bool = True) -> nn.Module:
        self.asked = mode
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
        """The layer is then in the mode that was last asked for."""
        if cls.holds(layer):
            layer.training = vars(layer).pop("train").asked
            del layer.reset_running_stats

    @classmethod
    def holds(cls, layer: nn.Module) -> bool:
        return isinstance(vars(layer).get("train"), cls)
