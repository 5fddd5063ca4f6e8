"""A call of a per-sample normalizer: its input, its formula and its parameters."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor, nn

from ..core import formulas
from ..core.arguments import as_mask
from ..core.bound import bound
from ..core.formulas import Formula
from ..core.moments import Moments
from ..functional.adaptive import as_style
from ..layers import AdaptiveInstanceNorm
from ..layers._conditions import ConditionTables
from ..layers._shared import FusedActivation, parameters_of
from ..layers.remembering import memory_of
from ..operations.normalize import normalize
from .given import home_of_forward

_HOMES = ("torch.", "normwise.layers.")
_PER_SAMPLE = (nn.GroupNorm, nn.modules.instancenorm._InstanceNorm, AdaptiveInstanceNorm)


class Call(NamedTuple):
    """The input, formula and parameters of a call: ``parameters`` are ``[C]``, or ``[N, C]`` with a condition."""

    x: Tensor
    formula: Formula
    parameters: tuple[Tensor | None, ...]
    activation: str | None
    residual: Tensor | None
    mask: Tensor | None

    def by(self, moments: Moments | None) -> Tensor:
        """The output, with the given statistics or, if they are None, with those of the input."""
        options: dict[str, Any] = {"activation": self.activation, "residual": self.residual, "mask": self.mask}
        return normalize(self.x, self.formula, *self.parameters, **options, moments=moments)


def normalizes_samples(layer: nn.Module) -> bool:
    """Whether a layer is group, instance, conditional or adaptive instance normalization, without running statistics
    and with the original forward."""
    if not isinstance(layer, _PER_SAMPLE) or memory_of(layer) is not None:
        return False
    home = home_of_forward(layer)
    return home is not None and home.__module__.startswith(_HOMES)


def call_of(layer: nn.Module, x: Tensor, *arguments: Any, **options: Any) -> Call:
    """A call ``layer(x, ...)`` of a layer that `normalizes_samples`, with its arguments by name or place.

    Raises ValueError for lengths, which count from the start of the whole image, and the layer's errors for its
    condition.
    """
    given = _given(layer, arguments, options)
    if given.get("lengths") is not None:
        raise ValueError(
            f"tiles: {type(layer).__name__} is called with lengths, which count from the start of the whole image and "
            "not of a tile. Pass a mask of the tile's positions instead."
        )
    eps = layer.eps
    formula = bound(formulas.instance_norm, eps=eps)
    if isinstance(layer, nn.GroupNorm):
        formula = bound(formulas.group_norm, groups=layer.num_groups, eps=eps)
    mask = given.get("mask")
    return Call(
        x,
        formula,
        _parameters(layer, x, given),
        layer.activation if isinstance(layer, FusedActivation) else None,
        given.get("residual"),
        None if mask is None else as_mask(mask, x),
    )


def _given(layer: nn.Module, arguments: tuple[Any, ...], options: dict[str, Any]) -> dict[str, Any]:
    names = ("residual", "mask", "lengths")
    if isinstance(layer, ConditionTables):
        names = ("condition", *names)
    elif isinstance(layer, AdaptiveInstanceNorm):
        names = ("style", *names)
    return dict(zip(names, arguments, strict=False)) | options


def _parameters(layer: nn.Module, x: Tensor, given: dict[str, Any]) -> tuple[Tensor | None, ...]:
    if isinstance(layer, ConditionTables):
        return layer._rows(given["condition"], x.shape[0])
    if isinstance(layer, AdaptiveInstanceNorm):
        style = as_style(given["style"])
        return style.std, style.mean
    return parameters_of(layer)
