"""The default size of the images of a folder, chosen from the model and the files."""

from __future__ import annotations

from pathlib import Path

import torch

from ..contestants.models import ShapeError
from ..contestants.zoo import ModelLike, open_model
from .images import glance

SIZES = (32, 64, 96, 128, 160, 192, 224, 256, 299, 384)
ROOMY, LEAST = 16, 4


def choose_image_size(model: ModelLike, folder: Path) -> int:
    """The smallest of `SIZES` at which every normalizer of the model gets a map of at least 4×4, or of at least 2×2
    if the files are too small for that.

    With a map of 1×1 InstanceNorm has one value per pool, and BatchNorm only the samples of the batch. For a model with
    a map of 1×1 at every size (a pooled branch) the result is 64 or the next size that the model accepts; for a model
    with one fixed size, such as a vision transformer, it is that size.
    """
    seen = glance(folder)
    takes, refused = {}, None
    for size in SIZES:
        example = torch.zeros(2, seen.channels, size, size)
        try:
            takes[size] = open_model(model, example, seen.classes).smallest_map
        except ShapeError as error:
            refused = error
            continue
        if takes[size] >= ROOMY:
            break
    if not takes:
        assert refused is not None
        raise refused
    roomy = [size for size, positions in takes.items() if positions >= ROOMY]
    if roomy and roomy[0] <= max(seen.side, SIZES[0]):
        return roomy[0]
    enough = [size for size, positions in takes.items() if positions >= LEAST]
    return next(iter(enough or [size for size in takes if size >= 64] or takes))
