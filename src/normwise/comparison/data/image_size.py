"""How large the images of a folder are made where nobody said: what the model and the files ask for."""

from __future__ import annotations

from pathlib import Path

import torch

from ..contestants.models import ShapeError
from ..contestants.zoo import ModelLike, open_model
from .images import glance

SIZES = (32, 64, 96, 128, 160, 192, 224, 256, 299, 384)
ROOMY, LEAST = 16, 4


def choose_image_size(model: ModelLike, folder: Path) -> int:
    """The smallest of `SIZES` at which every normalizer of the model gets a map of at least 4×4, and at least 2×2
    where that would be more than the files have.

    A map of 1×1 leaves InstanceNorm nothing to normalize over, and BatchNorm only the batch. A model with a map that
    is 1×1 at every size (a pooled branch) gets 64 or the next size that it takes; one that takes a single size, as a
    vision transformer does, gets that.
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
