"""A folder of images and masks as data for segmentation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ...image_files import UnreadableError, opened, pictures_in
from ..settings import InputError
from .images import HELD_OUT, HELD_OUT_NAMES, read_images
from .in_memory import Data
from .splits import split_and_standardize, standardized

IMAGES, MASKS = "images", "masks"


def mask_folder(folder: Path, size: int) -> Data:
    """Images of `folder/images/*` and masks of the same names in `folder/masks/*`, whose grey values are the classes.

    Both are resized to size×size, masks by the nearest pixel. A quarter is held out, unless the folder holds `train`
    and `test` (or `val`, ...), each with `images` and `masks`. If the masks hold other values than 0, 1, 2, ... (such
    as 0 and 255), the values are numbered in ascending order.
    """
    held_out = next((folder / name for name in HELD_OUT_NAMES if (folder / name / IMAGES).is_dir()), None)
    parts = [folder] if held_out is None or not (folder / "train").is_dir() else [folder / "train", held_out]
    pairs = [_pairs(part) for part in parts]
    images = read_images([image for part in pairs for image, _ in part], size)
    values, numbers = np.unique(np.stack([_mask(*pair, size) for part in pairs for pair in part]), return_inverse=True)
    masks = torch.from_numpy(numbers.reshape(len(images), size, size)).long()
    classes = tuple(str(value) for value in values)
    if len(parts) == 1:
        return split_and_standardize(folder.name, images, masks, classes, HELD_OUT, task="segmentation")
    cut = len(pairs[0])
    splits: tuple[Tensor, ...] = images[:cut], masks[:cut], images[cut:], masks[cut:]
    return standardized(Data(folder.name, *splits, classes, task="segmentation"))


def _pairs(folder: Path) -> list[tuple[Path, Path]]:
    """Each image and its mask."""
    for part in (IMAGES, MASKS):
        if not (folder / part).is_dir():
            raise InputError(
                f"{folder}: for segmentation it must hold the directories {IMAGES!r} and {MASKS!r}; there is no "
                f"{part!r}."
            )
    masks = {path.stem: path for path in pictures_in(folder / MASKS)}
    images = pictures_in(folder / IMAGES)
    if not images:
        raise InputError(f"{folder / IMAGES}: holds no image.")
    missing = [path.name for path in images if path.stem not in masks]
    if missing:
        raise InputError(
            f"{folder}: {len(missing)} of {len(images)} images have no mask of the same name, such as {missing[0]}."
        )
    return [(path, masks[path.stem]) for path in images]


def _mask(image_path: Path, path: Path, size: int) -> np.ndarray:
    from PIL import Image

    try:
        with opened(image_path) as image:
            expected = image.size
        with opened(path) as mask:
            found = mask.size
            # The numbers of a palette are the classes; converting would turn them into colours.
            grey = mask if mask.mode in ("P", "L", "1") or mask.mode.startswith("I") else mask.convert("L")
            pixels = np.asarray(grey.resize((size, size), Image.Resampling.NEAREST)).astype(np.int64)
    except UnreadableError as error:
        raise InputError(f"{error} Remove or replace it.") from error
    if found != expected:
        raise InputError(
            f"{path}: the mask is of size {found[0]}×{found[1]}, its image of {expected[0]}×{expected[1]}; give both "
            "the same size."
        )
    return pixels
