"""Pools of a single value: its mean is the value itself, so a normalizer would return its bias for any input."""

from __future__ import annotations

from torch import Tensor

from .sizes import product
from .tables import called

WITHOUT_EFFECT = "the output would be the bias whatever the input is."
_PER_GROUP = f"{WITHOUT_EFFECT} Use fewer groups, or leave the layer out where the maps are 1 x 1."


def check_values_per_channel(caller: object, x: Tensor, consequence: str) -> None:
    """Require more than one value of each channel in the batch ``[N, C, *space]``."""
    if x.numel() == x.shape[1] > 0:
        raise ValueError(
            f"{called(caller)}: Expected more than 1 value per channel when training, got input size "
            f"{list(x.shape)}; {consequence}"
        )


def check_values_per_group(caller: object, x: Tensor, channels: int, consequence: str = _PER_GROUP) -> None:
    """Require more than one value in each sample's groups of ``channels`` channels."""
    if channels == 1 and product(x.shape[2:]) == 1:
        raise ValueError(
            f"{called(caller)}: expected more than 1 value in each group of statistics, got input size "
            f"{list(x.shape)}; {consequence}"
        )


def check_values_per_chunk(caller: object, x: Tensor, samples: int) -> None:
    """Require more than one value of each channel in each chunk of ``samples`` samples."""
    if samples * product(x.shape[2:]) == 1:
        raise ValueError(
            f"{called(caller)}(ghost_size=1): a chunk of one sample of input size {list(x.shape)} has a single value "
            f"per channel, and {WITHOUT_EFFECT} Use a larger ghost_size."
        )
