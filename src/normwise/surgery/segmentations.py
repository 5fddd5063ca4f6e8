"""Segmentation maps that a net holds for an image: a tile needs its own part of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from ..layers import SPADE
from .hooks import hooked
from .tile_grid import Tile


@contextmanager
def maps_fit(model: nn.Module, part: Tile) -> Iterator[None]:
    """Inside the block SPADE raises ValueError for a segmentation that is not this tile's.

    SPADE resizes any segmentation, so without the check it would use that of the whole image for each tile.
    """

    def check(_: nn.Module, arguments: tuple[Any, ...], options: dict[str, Any]) -> None:
        segmentation = options["segmentation"] if "segmentation" in options else arguments[1]
        if isinstance(segmentation, Tensor) and not _is_of(part, segmentation):
            raise ValueError(
                f"tiles: SPADE needs the segmentation of each tile, here {part.sizes}, and got "
                f"{list(segmentation.shape)}; let the model make it from its input, such as more channels of the image."
            )

    spades = [module for module in model.modules() if isinstance(module, SPADE)]
    with hooked([layer.register_forward_pre_hook(check, with_kwargs=True) for layer in spades]):
        yield


def _is_of(part: Tile, segmentation: Tensor) -> bool:
    space = tuple(segmentation.shape[-len(part.box) :])
    if part.sizes == part.whole or space == part.whole:
        return part.sizes == part.whole
    try:
        part.core_of(segmentation.unsqueeze(1) if segmentation.dim() == 3 else segmentation, "a segmentation")
    except ValueError:
        return False
    return True
