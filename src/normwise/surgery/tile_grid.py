"""Tiles of an image: the cores that cover it, and the boxes with an overlap around them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from typing import NamedTuple

import torch
from torch import Tensor

Span = tuple[int, int]
_NAME = "tiles"


class Tile(NamedTuple):
    """The ``core``, the tile's part of the output, within the ``box``, the model's input; a span for each axis.

    ``whole`` is the size of the image.
    """

    core: tuple[Span, ...]
    box: tuple[Span, ...]
    whole: tuple[int, ...]

    @property
    def sizes(self) -> tuple[int, ...]:
        """The size of the box."""
        return tuple(high - low for low, high in self.box)

    def cut(self, image: Tensor) -> Tensor:
        return image[(..., *(slice(*span) for span in self.box))]

    def core_of(self, x: Tensor, where: str) -> Tensor:
        """The core's part of a map ``[N, C, *space]`` of this tile, at any resolution.

        Raises ValueError if the map's positions do not coincide with the tile's.
        """
        if x.dim() != len(self.box) + 2:
            raise ValueError(
                f"{_NAME}: {where} must be a map [N, C, *space] of the image, and it is {list(x.shape)}; tiles need a "
                "net without a final vector, such as one for segmentation."
            )
        return x[(..., *(self._span(axis, size, where) for axis, size in enumerate(x.shape[2:])))]

    def _span(self, axis: int, size: int, where: str) -> slice:
        (start, stop), (low, high), whole = self.core[axis], self.box[axis], self.whole[axis]
        reduction = round((high - low) / size) if size and size <= high - low else 1
        growth = round(size / (high - low)) if size > high - low else 1
        # The image may end anywhere; the end of the map is then the end of the net's output.
        expected = -(-(high - low) // reduction) * growth
        aligned = all(edge % reduction == 0 for edge in (start - low, *((stop - low,) if stop < whole else ())))
        if size != expected or not aligned:
            raise ValueError(
                f"{_NAME}: {where} has {size} positions of {high - low} in a tile; a net must keep the size or change "
                f"it by whole factors, and tile= and overlap= must be multiples of these ({reduction} here)."
            )
        end = (stop - low) // reduction * growth if stop < whole else size
        return slice((start - low) // reduction * growth, end)


def tiles_of(whole: Sequence[int], tile: Sequence[int], overlap: int) -> list[Tile]:
    """The tiles of an image, row by row; the last one of an axis may be smaller."""
    axes = [list(_spans(size, edge, overlap)) for size, edge in zip(whole, tile, strict=True)]
    return [Tile(*zip(*spans, strict=True), tuple(whole)) for spans in product(*axes)]  # type: ignore[arg-type]


def joined(parts: Sequence[Tensor], tiles: Sequence[Tile]) -> Tensor:
    """The cores put together, in the order of the tiles."""
    columns, axes = list(parts), len(tiles[0].core)
    for axis in reversed(range(axes)):
        length = len({tile.core[axis] for tile in tiles})
        columns = [torch.cat(columns[i : i + length], axis + 2) for i in range(0, len(columns), length)]
    return columns[0]


def _spans(size: int, edge: int, overlap: int) -> Iterator[tuple[Span, Span]]:
    for start in range(0, size, edge):
        stop = min(size, start + edge)
        yield (start, stop), (max(0, start - overlap), min(size, stop + overlap))
