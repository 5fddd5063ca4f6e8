"""How far a net looks: whether the core of a tile depends on what is beyond the overlap."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..signal.inputs import device_of
from ..signal.modules import watched_modules
from .tile_grid import Span, Tile
from .whole_image import WholeImage


def check_reach(model: nn.Module, image: Tensor, edges: Sequence[int], overlap: int) -> None:
    """Raises ValueError, with the first layer that does, where NaN from beyond the overlap reach the core of a tile.

    NaN passes every operation that so much as looks at it, which no value or gradient does reliably. Inside `on_loan`
    only.
    """
    probe, part = _probe(image, edges, overlap)
    if not bool(probe.isnan().any()):
        return  # a single tile
    found: list[str] = []
    names = watched_modules(model)

    def look(module: nn.Module, _: Any, output: Any) -> None:
        if not found and isinstance(output, Tensor) and _is_spoiled(output, part):
            found.append(f"{names[module]} ({type(module).__name__})")

    leaves = [module for module in names if not list(module.children())]
    handles = [module.register_forward_hook(look) for module in leaves]
    statistics = WholeImage(pretend=True)
    try:
        with statistics.of(model):
            statistics.begin(lambda x: x, stop=False)
            output = model(probe.to(device_of(model)))
    finally:
        for handle in handles:
            handle.remove()
    if found or (isinstance(output, Tensor) and _is_spoiled(output, part)):
        raise ValueError(
            f"tiles: the core of a tile depends on more than overlap={overlap} positions around it, first at "
            f"{found[0] if found else 'the output'}; choose a larger overlap, or consistency='collect' for a net that "
            "sees the whole image."
        )


def _probe(image: Tensor, edges: Sequence[int], overlap: int) -> tuple[Tensor, Tile]:
    """Zeros in a tile and NaN around it, along each axis that has several tiles."""
    sizes, boxes, cores = [], [], []
    for size, edge in zip(image.shape[2:], edges, strict=True):
        around = (overlap or edge) if size > edge else 0
        core: Span = (around + overlap, around + overlap + edge) if size > edge else (0, size)
        sizes.append(core[1] + core[0])
        boxes.append(slice(around, sizes[-1] - around))
        cores.append(core)
    probe = image.new_full((1, image.shape[1], *sizes), float("nan"))
    probe[(..., *boxes)] = 0
    return probe, Tile(tuple(cores), tuple((0, size) for size in sizes), tuple(sizes))


def _is_spoiled(output: Tensor, part: Tile) -> bool:
    if not output.is_floating_point() or not bool(torch.isnan(output).any()):
        return False
    try:
        core = part.core_of(output, "a map")
    except ValueError:  # padded by a layer of its own, or made of all of the image
        return bool(torch.isnan(output).all())
    return bool(torch.isnan(core).any())
