"""Layers whose weight is stored as the distance of γ from 1."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from normwise.core.formulas import one_plus
from normwise.core.layout import check_memory
from normwise.core.moments import statistics_dtype
from normwise.core.numbers import check_flag


class ZeroCentered(nn.Module):
    """Adds ``zero_centered=True`` to a layer: γ is ``1 + weight``, in at least fp32, and the weight starts at 0."""

    zero_centered: bool = False

    def _set_zero_centered(self, zero_centered: bool) -> None:
        """Set the option; the weight of a zero-centered layer starts at 0."""
        check_flag(self, "zero_centered", zero_centered)
        if zero_centered and self.weight is None:
            raise ValueError(
                f"{type(self).__name__}: zero_centered says how the weight is stored, and with "
                "elementwise_affine=False there is none; leave one of the two out."
            )
        self.zero_centered = zero_centered
        if zero_centered:
            nn.init.zeros_(self.weight)  # type: ignore[arg-type]

    def _with_gain(
        self, x: Tensor, tensors: tuple[Tensor | None, Tensor | None]
    ) -> tuple[Tensor | None, Tensor | None]:
        """The tensors with γ instead of the weight, which is checked here: the sum could hide a wrong shape."""
        self._check_tensors(x, tensors)
        weight, bias = tensors
        if weight is None:
            return tensors
        check_memory(weight)
        return one_plus(weight, statistics_dtype(x.dtype)), bias

    def _check_tensors(self, x: Tensor, parameters: tuple[Tensor | None, ...]) -> None:
        """Raises for an input or parameters that do not fit."""
        raise NotImplementedError

    def reset_parameters(self) -> None:
        """Reset to γ = 1 and β = 0; if the layer is zero-centered, the weight is then 0."""
        super().reset_parameters()  # type: ignore[misc]
        if self.zero_centered and self.weight is not None:
            nn.init.zeros_(self.weight)  # type: ignore[arg-type]

    def lost_in(self, mode: str) -> str:
        """What is lost if a tool takes the layer for torch's own in that mode; "" if nothing."""
        lost = super().lost_in(mode)  # type: ignore[misc]
        if not self.zero_centered:
            return lost
        return f"{lost} and zero_centered=True" if lost else "zero_centered=True"

    def extra_repr(self) -> str:
        return super().extra_repr() + (", zero_centered=True" if self.zero_centered else "")


def gain_of(layer: Any) -> Tensor | None:
    """γ of any normalizer, stored as it is or as its distance from 1; None where it has none.

    >>> layer = nn.LayerNorm(2)
    >>> gain_of(layer) is layer.weight
    True
    """
    weight = getattr(layer, "weight", None)
    if weight is None or not getattr(layer, "zero_centered", False):
        return weight
    check_memory(weight)
    return one_plus(weight, torch.float32)


@torch.no_grad()
def stored(layer: Any, gain: Tensor) -> Tensor:
    """The value of a normalizer's weight that makes γ equal to ``gain``.

    >>> stored(nn.LayerNorm(2), torch.tensor([1.0, 3.0]))
    tensor([1., 3.])
    """
    return gain - 1 if getattr(layer, "zero_centered", False) else gain
