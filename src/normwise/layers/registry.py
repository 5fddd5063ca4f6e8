"""Layers made from a name, a class or a factory."""

from __future__ import annotations

import difflib
from collections.abc import Callable

from torch import nn

from ._shared import FusedActivation
from .layer_norm import LayerNorm, RMSNorm
from .normalizers import NORMALIZERS, Normalizer, default_groups

#: Arguments of `make_norm`: a row's name, a layer class, or a factory from channels to a layer.
Norm = str | type[nn.Module] | Callable[[int], nn.Module]


def make_norm(norm: Norm, channels: int, rank: int = 2) -> nn.Module:
    """Build a normalizer for maps of ``channels`` channels and ``rank`` spatial dimensions.

    Args:
        norm: a name from `NORMALIZERS` (``"group:8"`` means 8 groups, ``"ghost:16"`` chunks of 16 samples),
            a class of this package or of torch.nn, or a factory that is called with the number of channels.
        channels: C of ``[N, C, *space]``.
        rank: 1, 2 or 3.

    Raises ValueError for an unknown name, with the nearest known one, and for options that do not fit.

    >>> make_norm("group:2", 6)
    GroupNorm(2, 6, eps=1e-05, affine=True...)
    >>> make_norm(lambda c: nn.GroupNorm(1, c), 6).num_groups
    1
    """
    if not isinstance(norm, str):
        return _from_callable(norm, channels)
    row, option = parse_norm(norm)
    name = row.name
    if row.condition is not None:
        raise ValueError(
            f"{name!r} takes {row.condition} in forward besides x, which no net passes; build the layer itself. "
            f"For maps choose from {', '.join(map_normalizers())}."
        )
    if not row.for_channels:
        raise ValueError(
            f"{name!r} normalizes rows [*, C], not maps [N, C, *space]; for maps choose from "
            f"{', '.join(map_normalizers())}."
        )
    if rank not in (1, 2, 3):
        raise ValueError(f"rank must be 1, 2 or 3 spatial dimensions, received {rank}.")
    return row.make(channels, rank, option)


def parse_norm(norm: str) -> tuple[Normalizer, int | None]:
    """The row of a name such as ``"group"`` or ``"group:8"``, and its number; ValueError for any other name.

    >>> row, groups = parse_norm("group:8")
    >>> row.title, groups
    ('GroupNorm', 8)
    """
    name, _, option = norm.partition(":")
    return find_normalizer(name), _parse_option(norm, name, option)


def activates(layer: nn.Module) -> bool:
    """Whether the output of a normalizer includes an activation, so that no other belongs behind it.

    True for the rows of `NORMALIZERS` that say so, for every layer built with ``activation=``, and for
    FilterResponseNorm's threshold.

    >>> from normwise.layers import EvoNormS0, FilterResponseNorm2d
    >>> activates(EvoNormS0(8)), activates(FilterResponseNorm2d(8)), activates(make_norm("batch", 8))
    (True, True, False)
    """
    flagged = tuple(kind for row in NORMALIZERS.values() if row.activates for kind in row.layers.values())
    return isinstance(layer, flagged) or (isinstance(layer, FusedActivation) and layer.activation is not None)


def find_normalizer(name: str) -> Normalizer:
    """The row of a name; an unknown name raises a ValueError that suggests the nearest."""
    if name in NORMALIZERS:
        return NORMALIZERS[name]
    near = difflib.get_close_matches(name.lower().removesuffix("norm"), NORMALIZERS, n=1, cutoff=0.4)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise ValueError(f"Unknown normalizer {name!r}: {hint}The normalizers are: {', '.join(NORMALIZERS)}.")


def map_normalizers() -> list[str]:
    """Names of the rows that serve ``[N, C, *space]``."""
    return [name for name, row in NORMALIZERS.items() if row.for_channels]


def _parse_option(norm: str, name: str, option: str) -> int | None:
    """The number after the colon of a name; ValueError where the row takes none or it is not positive."""
    if ":" not in norm:
        return None
    if name not in ("group", "evo-s0", "ghost"):
        raise ValueError(
            f"{norm!r}: only 'group' and 'evo-s0' (groups) and 'ghost' (samples) take a number, as in 'group:8' for "
            "8 groups."
        )
    if not option.isdigit() or int(option) < 1:
        raise ValueError(f"{norm!r}: the number must be a positive integer, as in 'group:8' for 8 groups.")
    return int(option)


def _from_callable(norm: Callable[..., nn.Module], channels: int) -> nn.Module:
    """A layer from a class of this package or of torch.nn, or from a factory."""
    if not callable(norm):
        raise TypeError(f"norm must be a name, a class or a factory, received {type(norm).__name__}.")
    if isinstance(norm, type) and issubclass(norm, nn.GroupNorm):
        return norm(default_groups(channels), channels)
    if norm in (nn.LayerNorm, nn.RMSNorm, LayerNorm, RMSNorm):
        raise ValueError(
            f"{norm.__name__} normalizes rows [*, C], not maps [N, C, *space]; write 'layer' (over C and space), "
            "'pixel-layer' or 'pixel-rms' (over C at each position)."
        )
    layer = norm(channels)
    if not isinstance(layer, nn.Module):
        raise TypeError(f"The norm factory must return a torch.nn.Module, it returned {type(layer).__name__}.")
    return layer
