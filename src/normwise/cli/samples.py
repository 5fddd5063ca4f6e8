"""The input of a model for `normwise convert`: noise of a suitable shape, or data."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..comparison import InputError
from ..comparison.data.image_size import choose_image_size
from ..comparison.data.in_memory import Data
from ..comparison.data.sources import load_data
from ..comparison.isolation import isolated
from ..comparison.request import IMAGE_SIZE
from ..signal.inputs import default_input, dtype_of, gaussian

SAMPLES = 2
BATCH_SIZE = 64
ORDER_SEED = 0
#: A mean below this share of σ is due to rounding and shown as 0.
ROUNDING = 1e-6


class DataOptions(NamedTuple):
    """The options for reading data; None for those that were not given."""

    batch_size: int | None = None
    image_size: int | None = None
    target: str | None = None
    standardize: bool = False


class Samples(NamedTuple):
    """Data for a model, batch by batch, and a remark on them."""

    x: Tensor
    batch_size: int
    description: str

    @property
    def batches(self) -> tuple[Tensor, ...]:
        return self.x.split(self.batch_size)

    @property
    def example(self) -> Tensor:
        return self.x[:SAMPLES]


def example_for(net: nn.Module, shape: str | None) -> Tensor:
    """Gaussian noise, of the given shape or of one that fits the model's first layer."""
    generator = torch.Generator().manual_seed(0)
    if shape is None:
        try:
            return default_input(net, generator)[0][:SAMPLES]
        except ValueError as error:
            raise InputError(
                f"The input shape of {type(net).__name__} cannot be found; write it, as in --input 2x3x224x224."
            ) from error
    sizes = shape.lower().replace("×", "x").split("x")
    if not all(size.isdigit() and int(size) > 0 for size in sizes):
        raise InputError(f"--input {shape}: write the sizes of a batch, such as 2x3x224x224.")
    return gaussian(net, tuple(map(int, sizes)), generator)


def check_options(options: DataOptions) -> None:
    """Raise InputError for invalid sizes."""
    for name, size in (("--batch-size", options.batch_size), ("--image-size", options.image_size)):
        if size is not None and size < 1:
            raise InputError(f"{name} {size}: write a whole number of at least 1.")


def training_samples(net: nn.Module, source: str, options: DataOptions) -> Samples:
    """The training split of `normwise compare`'s data.

    The order is random but the same in each run: files are often sorted by class, and a batch of one class has other
    statistics than a batch of the training.
    """
    size = _image_size(net, source, options.image_size)
    with isolated(0, "cpu"):
        data = load_data(source, size, options.target, options.standardize)
    if not isinstance(data, Data) or not data.x_train.is_floating_point():
        raise InputError(
            f"{source} must hold samples in memory that are not token numbers; write --input with the sizes of a batch."
        )
    x = data.x_train
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(ORDER_SEED))
    return Samples(x[order].to(dtype_of(net)), options.batch_size or BATCH_SIZE, _described(x))


def _image_size(net: nn.Module, source: str, size: int | None) -> int:
    if not Path(source).is_dir():
        if size is not None:
            raise InputError(f"--image-size goes with a folder of images, and {source} is not a folder.")
        return IMAGE_SIZE
    try:
        return size or choose_image_size(net, Path(source))
    except InputError as error:
        raise InputError(f"{error} Set the size of the images of {source} with --image-size N.") from error


def _described(x: Tensor) -> str:
    std, mean = torch.std_mean(x, dim=[0, *range(2, x.dim())], correction=0)
    mean = mean.where(mean.abs() > ROUNDING * std, 0.0)
    return (
        f"Data: the training split, {len(x)} samples {'×'.join(map(str, x.shape[1:]))}, the channels' means from "
        f"{mean.min():.2g} to {mean.max():.2g} and σ from {std.min():.2g} to {std.max():.2g}. They must be scaled as "
        "in the net's training."
    )
