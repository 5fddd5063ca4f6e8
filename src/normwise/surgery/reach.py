"""The receptive field of a net: whether the core of a tile depends on values beyond the overlap."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..signal.inputs import device_of
from ..signal.modules import watched_modules
from .hooks import hooked
from .tile_grid import Span, Tile
from .whole_image import WholeImage


def overlap_for(model: nn.Module, image: Tensor, edges: Sequence[int], overlap: int) -> int:
    """The overlap, doubled until the core of a tile does not depend on values beyond it.

    Raises ValueError with the first such layer if a layer depends on the whole tile and its surroundings. Call it only
    inside `on_loan`.
    """
    while True:
        seen = _seen_beyond(model, image, edges, overlap)
        if seen is None:
            return overlap
        if seen.everywhere:
            raise ValueError(
                f"tiles: {seen.layer} depends on the whole image, or on more than a tile and overlap={overlap} around "
                "it; choose larger ones, or consistency='collect'."
            )
        overlap = 2 * overlap or min(edges)


class _Seen(NamedTuple):
    """The first layer whose output in the core comes from beyond the overlap, and whether all of its output does."""

    layer: str
    everywhere: bool


def _seen_beyond(model: nn.Module, image: Tensor, edges: Sequence[int], overlap: int) -> _Seen | None:
    """Put NaN beyond the overlap: every operation that reads a NaN passes it on, unlike a value or a gradient."""
    probe, part = _probe(image, edges, overlap)
    if not bool(probe.isnan().any()):
        return None  # a single tile
    found: list[_Seen] = []
    names = watched_modules(model)

    def look(output: Any, layer: str) -> None:
        if not found and isinstance(output, Tensor) and _is_spoiled(output, part):
            found.append(_Seen(layer, bool(torch.isnan(output).all())))

    def hook(module: nn.Module, _: Any, output: Any) -> None:
        look(output, f"{names[module]} ({type(module).__name__})")

    leaves = [module for module in names if not list(module.children())]
    handles = [module.register_forward_hook(hook) for module in leaves]
    statistics = WholeImage(pretend=True)
    with hooked(handles), statistics.of(model):
        statistics.begin(lambda x: x, stop=False)
        look(model(probe.to(device_of(model))), "the output")
    return found[0] if found else None


def _probe(image: Tensor, edges: Sequence[int], overlap: int) -> tuple[Tensor, Tile]:
    """Zeros in a tile and NaN around it, along each axis that has several tiles."""
    sizes, boxes, cores = [], [], []
    for size, edge in zip(image.shape[2:], edges, strict=True):
        around = (overlap or edge) if size > edge else 0
        core: Span = (around + overlap, around + overlap + edge) if size > edge else (0, size)
        sizes.append(core[1] + core[0])
        boxes.append(slice(around, sizes[-1] - around))
        cores.append(core)
    # As many samples as the image has: the net may have a condition for each.
    probe = image.new_full((*image.shape[:2], *sizes), float("nan"))
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
