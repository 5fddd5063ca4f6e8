"""A default input for a layer: small, so that its cube can be shown."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ..layers import NORMALIZERS, Normalizer

SAMPLES, CHANNELS = 4, 6
SPACE = {0: (), 1: (4,), 2: (2, 2), 3: (2, 1, 2)}
_CHANNELS = ("num_features", "num_channels", "normalized_shape")


def row_of(layer: nn.Module) -> Normalizer | None:
    """The row of `NORMALIZERS` to which a layer belongs; torch's own layers belong to the rows of ours."""
    found = [row for row in NORMALIZERS.values() if _is_of(layer, row)]
    if not found:
        return None
    settings = vars(layer)
    names = {row.name: row for row in found}
    if "layer" in names and "group" in names:
        return names["layer" if settings.get("num_groups") == 1 else "group"]
    for plain, other in (("tanh", "token-tanh"), ("erf", "token-erf")):
        if plain in names:
            return names[plain if settings.get("dim") == 1 else other]
    for plain in ("token-layer", "token-rms"):
        if plain in names:
            return names[f"{plain}-zero" if settings.get("zero_centered") else plain]
    return found[0]


def _is_of(layer: nn.Module, row: Normalizer) -> bool:
    kinds = {kind for kind in row.layers.values() if row.name != "none"}
    theirs = type(layer).__module__.startswith("torch.nn") and type(layer).__name__ in {k.__name__ for k in kinds}
    return type(layer) in kinds or theirs


def sample_shapes(layer: nn.Module) -> Iterator[tuple[int, ...]]:
    """Shapes that the layer may accept, the likeliest first."""
    channels = next((getattr(layer, name) for name in _CHANNELS if hasattr(layer, name)), None)
    row = row_of(layer)
    if isinstance(channels, tuple) and row is not None and row.of_maps:
        channels = channels[0]
    if isinstance(channels, tuple):
        yield (SAMPLES, 2, 2, *channels) if len(channels) == 1 else (SAMPLES, 2, *channels)
        return
    sizes = [channels] if isinstance(channels, int) else [CHANNELS, *_sizes(layer)]
    name = type(layer).__name__
    named = [int(name[-2])] if name[-1:] == "d" and name[-2:-1].isdigit() else []
    for size in sizes:
        if row is not None and not row.of_maps:
            yield (SAMPLES, 2, 2, size)
            continue
        for rank in dict.fromkeys((*named, 2, 1, 3, 0)):
            yield (SAMPLES, size, *SPACE[rank])
        yield (SAMPLES, 2, 2, size)


def _sizes(layer: nn.Module) -> list[int]:
    """The numbers of channels that a user's module may have: the sizes of its tensors."""
    tensors = (*layer.parameters(), *layer.buffers())
    return list(dict.fromkeys(size for t in tensors for size in t.shape if 1 < size <= 1024))


def conditions(layer: nn.Module, shape: tuple[int, ...], device: torch.device) -> tuple[Any, ...]:
    """The arguments after ``x`` of ``forward`` in a conditional layer of this package; none for other layers."""
    row = row_of(layer)
    condition = None if row is None else row.condition
    generator = torch.Generator().manual_seed(1)

    def values(*sizes: int) -> Tensor:
        return (torch.randn(sizes, generator=generator, dtype=torch.float64) * 0.7 + 0.3).to(device)

    samples = shape[0] if shape else 0
    if condition == "labels":
        return (torch.arange(samples, device=device) % int(layer.num_conditions),)  # type: ignore[arg-type]
    if condition == "style" or condition == "gate":
        return (values(*shape),)
    if condition == "segmentation":
        return (values(samples, int(layer.num_labels), *shape[2:]).abs(),)  # type: ignore[arg-type]
    if condition == "vector":
        return (values(samples, int(layer.num_condition)),)  # type: ignore[arg-type]
    return ()
