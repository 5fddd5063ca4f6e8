"""Pictures, features and plans that are small enough for tests."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from normwise.nets import vgg_trunk
from normwise.style.features import vgg_features
from normwise.style.plan import Plan, names_of


def draw(path, size=(48, 40), seed=0, mode="RGB"):
    """A picture file of smooth noise; its pixels as they were given to Pillow."""
    generator = np.random.default_rng(seed)
    coarse = Image.fromarray(generator.integers(0, 256, (6, 6, 3), dtype=np.uint8))
    image = coarse.resize(size, Image.Resampling.BICUBIC).convert(mode)
    image.save(path)
    return image


def draw_all(folder, count, **options):
    folder.mkdir(exist_ok=True)
    for i in range(count):
        draw(folder / f"picture{i}.png", seed=10 + i, **options)
    return folder


def small_features(blocks=4, width=4):
    torch.manual_seed(7)
    return vgg_features(vgg_trunk((1,) * blocks, width=width), "a small VGG with random weights", trained=False)


def small_plan(photos, styles, **changes):
    """A training of a second."""
    base = {
        "kind": "one",
        "norm": "instance",
        "width": 4,
        "blocks": 1,
        "size": 32,
        "style_size": 64,
        "steps": 6,
        "batch_size": 2,
    }
    base |= {"content_weight": 1.0, "style_weight": 10.0, "smoothness": 0.1, "loss": "gram", "learning_rate": 1e-2}
    paths = tuple(map(Path, styles))
    names = names_of(paths)
    return Plan(**(base | {"seed": 0, "photos": tuple(photos), "styles": paths, "names": names} | changes))
