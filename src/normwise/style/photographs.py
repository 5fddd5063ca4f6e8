"""Crops of training photographs, determined by the step."""

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
#: The largest side of a crop in the photograph, in units of the crop's size.
LARGEST_CROP = 1.75
KEPT = 256


class Crops:
    """Square crops of pictures, of any scale from the crop's size to `LARGEST_CROP` times it, half of them mirrored.

    ``crops(step, count)`` depends on nothing else, so a continued run sees the same crops as an uninterrupted one.

    ``longest`` is the longer side to which larger pictures are reduced, by default `ROOM` times the crop's size.
    """

    def __init__(self, paths: Sequence[Path], size: int, seed: int, longest: int | None = None) -> None:
        self._paths, self._size, self._seed = list(paths), size, seed
        self._longest = longest or round(ROOM * size)
        # Reading takes a tenth of a second per photograph, so the photographs of a small folder are kept in memory.
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
    """The given files, and the pictures in the given folders.

    Raises InputError for a missing file or folder, and for a folder without a picture.
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
