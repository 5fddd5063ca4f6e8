"""Sources of models: our nets, timm, torchvision, and the caller's functions and modules."""

from __future__ import annotations

import copy
import difflib
import importlib
import inspect
import math
import re
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ...checkpoint_files import READABLE, is_whole_model, load_whole
from ...errors import InputError
from ...layers import Norm
from ...nets import resnet
from ...nets.forms import Stem
from ..references import load_object, name_of
from ..tasks import Task
from ..tasks.classification import Classification
from .models import Blueprint, Recipe, first_line
from .normalizer_free import counterpart
from .pretrained import with_weights
from .small_nets import SMALL_NETS

IMAGENET_STEM_FROM = 64

ModelLike = str | nn.Module | Callable[..., nn.Module]


class Needs(NamedTuple):
    """The requirements of a model: a batch of samples, the numbers of channels and outputs, and the task."""

    example: Tensor
    channels: int
    classes: int
    task: type[Task]


def open_model(
    model: ModelLike,
    example: Tensor,
    classes: int,
    weights: str | None = None,
    task: type[Task] = Classification,
    in_channels: int | None = None,
) -> Recipe:
    """The recipe of `resnet8` and so on, `mlp`, `unet`, `tagger`, `gpt`, `timm:NAME`, `torchvision:NAME`,
    `package.module:function`, a file that holds a whole model, a module or a function.

    A function is called with `norm`, `in_channels`, `classes` and `outputs` (both are the number of outputs) as far as
    it has parameters of these names. If it has no `norm`, and for every model of a library, the normalization layers
    are replaced. Every run of a module instance starts from the instance's weights; with `weights` every run starts
    from those (see `with_weights`).
    """
    needs = Needs(example, example.shape[1] if in_channels is None else in_channels, classes, task)
    blueprint = _blueprint(model, needs)
    if weights is not None:
        blueprint = with_weights(blueprint, weights, classes)
    return Recipe(blueprint, example, classes, task)


def _blueprint(model: ModelLike, needs: Needs) -> Blueprint:
    if not isinstance(model, str):
        if not callable(model):
            raise InputError(f"model must be a name, a torch.nn.Module or a function, received {model!r}.")
        return _from_object(name_of(model), model, needs)
    library, _, name = model.partition(":")
    if re.fullmatch(r"resnet\d+", model):
        return _ours(model, needs.example, needs.classes)
    if model in SMALL_NETS:
        return _small(model, needs)
    if model.endswith(READABLE) and not name:
        return _from_object(model, _whole_model(model), needs)
    if library in ("timm", "torchvision"):
        return _from_library(library, name, needs)
    if name:
        return _from_object(model, load_object(model), needs)
    raise InputError(
        f"model={model!r} is unknown. Write resnet8, resnet20, resnet18 or another depth, {', '.join(SMALL_NETS)}, "
        "timm:NAME, torchvision:NAME, package.module:function or a file that holds a whole model."
    )


def _small(name: str, needs: Needs) -> Blueprint:
    net, (example, channels, classes, task) = SMALL_NETS[name], needs
    if example.dim() - 1 not in net.dimensions or (task.takes_ids != (name in ("tagger", "gpt"))):
        raise InputError(
            f"{name} takes {net.takes}, the data have samples of shape {list(example.shape[1:])} for {task.name}. "
            "Write a function that makes a model for them, package.module:function."
        )

    def make(*norm: Norm) -> nn.Module:
        return net.make(*norm, example, channels, classes)

    return Blueprint(name, make, net.takes_norm)


def _ours(name: str, example: Tensor, classes: int) -> Blueprint:
    if example.dim() != 4:
        raise InputError(
            f"{name} takes images [N, C, H, W], the data have samples of shape {list(example.shape[1:])}. Write a "
            "function that makes a model for them, package.module:function; it may take norm, in_channels and classes."
        )
    stem: Stem | None = None if min(example.shape[2:]) >= IMAGENET_STEM_FROM else "small"
    depth, channels = int(name.removeprefix("resnet")), example.shape[1]
    try:
        resnet(depth, "none", channels, classes, stem)
    except ValueError as error:
        raise InputError(str(error)) from error
    return Blueprint(
        name,
        lambda norm: resnet(depth, norm, channels, classes, stem),
        True,
        lambda: counterpart(depth, channels, classes, stem),
    )


def _whole_model(name: str) -> nn.Module:
    path = Path(name)
    if is_whole_model(path):
        return load_whole(path)
    raise InputError(
        f"model={name!r} holds weights without a model; write model='torchvision:resnet18', or the model that they "
        f"belong to, with weights={name!r}."
    )


def _from_library(library: str, name: str, needs: Needs) -> Blueprint:
    make = find_in_library(library, name)
    options = {"num_classes": needs.classes} | ({"in_chans": needs.channels} if library == "timm" else {})
    return Blueprint(f"{library}:{name}", partial(make, **options), False)


def find_in_library(library: str, name: str) -> Callable[..., nn.Module]:
    """The function that makes a model of timm or torchvision without pretrained weights.

    Raises InputError if the library is missing, or, with the nearest name, if it has no such model.
    """
    try:
        package = importlib.import_module(library)
    except ModuleNotFoundError as error:
        raise InputError(
            f"model='{library}:{name}': {error.name} is not installed; run `pip install {error.name}`."
        ) from error
    except (ImportError, RuntimeError, OSError) as error:  # a build for another torch fails in any of these ways
        raise InputError(f"model='{library}:{name}': {_why_not_imported(library, error)}") from error
    known = package.list_models() if library == "timm" else package.models.list_models()
    # "resnet18.a1_in1k": timm lists architectures without the tag of their weights.
    if name not in known and name.partition(".")[0] not in known:
        near = nearest_name(name, known)
        hint = f"; did you mean '{library}:{near}'?" if near else "."
        raise InputError(f"model='{library}:{name}': {library} has no such model{hint}")
    if library == "timm":
        return partial(package.create_model, name, pretrained=False)
    builder = package.models.get_model_builder(name)
    # Models for segmentation would download the weights of their backbone.
    backbone = {"weights_backbone": None} if "weights_backbone" in inspect.signature(builder).parameters else {}
    return partial(package.models.get_model, name, weights=None, **backbone)


def _why_not_imported(library: str, error: Exception) -> str:
    """What to install. In most cases torchvision, which timm imports, was built for another torch."""
    if "torchvision" not in str(error) and library != "torchvision":
        return f"{library} cannot be imported: {first_line(error)} Install the build for torch {torch.__version__}."
    number, _, build = str(torch.__version__).partition("+")
    major, minor = number.split(".")[:2]
    # torchvision 0.15 came with torch 2.0; since then both minor versions have increased together.
    wanted = f"'torchvision==0.{int(minor) + 15}.*'" if major == "2" else "--upgrade torchvision"
    index = f" --index-url https://download.pytorch.org/whl/{build}" if build else ""
    reads = ", which timm imports," if library == "timm" else ""
    return (
        f"the installed torchvision{reads} was not built for torch {torch.__version__} "
        f"({first_line(error).rstrip('.')}). Run `pip install --force-reinstall --no-deps {wanted}{index}`."
    )


def nearest_name(name: str, known: Iterable[str]) -> str | None:
    """The most similar known name: the same letters with the nearest numbers, else the nearest spelling.

    >>> nearest_name("resnet99", ["resnet9x", "resnet50", "resnet101"]), nearest_name("resnt50", ["resnet50", "vgg16"])
    ('resnet101', 'resnet50')
    """
    known = list(known)
    numbers = [int(digits) for digits in re.findall(r"\d+", name)]

    def distance(other: str) -> float:
        pairs = zip(numbers, map(int, re.findall(r"\d+", other)), strict=True)
        return sum(abs(math.log((1 + a) / (1 + b))) for a, b in pairs)

    alike = [other for other in known if re.sub(r"\d+", "#", other) == re.sub(r"\d+", "#", name)]
    if alike:
        return min(alike, key=distance)
    return next(iter(difflib.get_close_matches(name, known, n=1, cutoff=0.0)), None)


def _from_object(name: str, found: Any, needs: Needs) -> Blueprint:
    if isinstance(found, nn.Module):
        instance = copy.deepcopy(found).cpu()
        return Blueprint(name, lambda: copy.deepcopy(instance), False)
    return _from_function(name, found, needs)


def _from_function(name: str, function: Any, needs: Needs) -> Blueprint:
    if not callable(function):
        raise InputError(f"{name} is not a function; it must return a torch.nn.Module.")
    parameters = inspect.signature(function).parameters
    given = {"in_channels": needs.channels, "classes": needs.classes, "outputs": needs.classes}
    given = {key: value for key, value in given.items() if key in parameters}
    missing = [
        p.name
        for p in parameters.values()
        if p.default is p.empty
        and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
        and p.name not in ("norm", "in_channels", "classes", "outputs")
    ]
    if missing:
        raise InputError(
            f"{name} has the required parameters {', '.join(missing)}; a model function is called with norm, "
            "in_channels, classes and outputs only: give its other parameters defaults."
        )
    if "norm" in parameters:
        return Blueprint(name, lambda norm: function(norm=norm, **given), True)
    return Blueprint(name, lambda: function(**given), False)
