"""Photographs to train on: crops, the same for the same step whoever asks."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from ..errors import InputError
from ..image_files import pictures_in
from .pictures import read_picture

#: Photographs are read at most this many times as large as a crop, so that a crop shows more than a detail.
ROOM = 2.5
#: A crop's side in the photograph, in crops' sides.
LARGEST_CROP = 1.75
KEPT = 256


class Crops:
    """Square crops of pictures, of any scale from the crop's size to `LARGEST_CROP` times it, half of them mirrored.

    ``crops(step, count)`` depends on nothing else: a run that is taken up again sees what it would have seen.

    ``longest`` is the longer side that larger pictures are read at, by default `ROOM` times the crop's.
    """

    def __init__(self, paths: Sequence[Path], size: int, seed: int, longest: int | None = None) -> None:
        self._paths, self._size, self._seed = list(paths), size, seed
        self._longest = longest or round(ROOM * size)
        # A tenth of a second per photograph: those of a small folder are read once.
        self._read = lru_cache(KEPT)(self._reduced)

    def __call__(self, step: int, count: int) -> Tensor:
        """``[count, 3, size, size]``."""
        generator = torch.Generator().manual_seed(self._seed * 1_000_003 + step)
        return torch.stack([self._crop(generator) for _ in range(count)])

    def _crop(self, generator: torch.Generator) -> Tensor:
        index, *shares = torch.rand(5, generator=generator, dtype=torch.float64).tolist()
        pixels = self._read(int(index * len(self._paths))).float() / 255
        height, width = pixels.shape[1:]
        side = min(height, width, round(self._size * (1 + shares[0] * (LARGEST_CROP - 1))))
        top, left = round(shares[1] * (height - side)), round(shares[2] * (width - side))
        crop = pixels[None, :, top : top + side, left : left + side]
        crop = torch.nn.functional.interpolate(crop, (self._size, self._size), mode="bilinear", antialias=True)
        return crop[0].flip(2) if shares[3] < 0.5 else crop[0]

    def _reduced(self, index: int) -> Tensor:
        pixels = read_picture(self._paths[index], self._longest).pixels
        return pixels.mul(255).round().to(torch.uint8)


def listed(sources: Sequence[str | Path], role: str) -> list[Path]:
    """The files that are named, and those of the folders that are.

    Raises InputError for what is not there, and for a folder without a picture.
    """
    found: list[Path] = []
    for source in map(Path, sources):
        if source.is_dir():
            inside = pictures_in(source)
            if not inside:
                raise InputError(f"{source}: there is no picture in this folder; name the folder of your {role}.")
            found += inside
        elif source.is_file():
            found.append(source)
        else:
            raise InputError(f"{source}: there is no such file or folder; name {role} by their paths.")
    return found
