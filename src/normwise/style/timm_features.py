"""timm's models as feature networks."""

from __future__ import annotations

from collections.abc import Collection
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import InputError
from ..nets.vgg import IMAGENET_MEAN, IMAGENET_STD, PixelScale
from .features import Features

#: The coarsest maps, by their reduction, that are used for a style.
COARSEST = 16
#: The least reduction of the map for the content: the finest map of at least this reduction is used.
CONTENT_REDUCTION = 4
PROBE = (1, 3, 64, 96)


def timm_features(name: str) -> Features:
    """The features of ``timm:NAME`` or ``timm:NAME:FILE``.

    Raises InputError without timm, for an unknown name, for weights that are not on this machine, and for models
    without maps.
    """
    try:
        timm = import_module("timm")
    except ModuleNotFoundError as error:
        raise InputError(f"--features {name} needs timm, which is not installed. Write: pip install timm") from error
    except Exception as error:  # a torchvision built for another torch, for example
        raise InputError(
            f"--features {name}: timm is installed and cannot be imported ({type(error).__name__}: "
            f"{(str(error).splitlines() or [''])[0]})."
        ) from error
    _, model, *given = name.split(":", 2)
    if not timm.is_model(model):
        raise InputError(f"--features {name}: timm knows no model {model!r}; timm.list_models() lists them.")
    file = Path(given[0]) if given else _cached(timm, model)
    if file is None or not file.is_file():
        raise InputError(
            f"--features {name}: "
            + (
                f"there is no file {file}"
                if file
                else f"the weights of {model} are not on this machine, and nothing is downloaded"
            )
            + f"; write timm:{model}:FILE."
        )
    overlay = {"file": str(file)}
    try:
        # A model without its head would ignore missing weights and leave them random, so the whole model is loaded.
        timm.create_model(model, pretrained=True, pretrained_cfg_overlay=overlay)
    except Exception as error:  # errors of zip, pickle, names or sizes: not the file of this model
        raise InputError(
            f"--features {name}: {file} does not hold the weights of timm's {model} ({type(error).__name__}: "
            f"{(str(error).splitlines() or [''])[0]}); write the file of that model by timm's names."
        ) from error
    try:
        net = timm.create_model(model, pretrained=True, features_only=True, pretrained_cfg_overlay=overlay)
        used = _Maps(net)
        used(torch.zeros(PROBE), used.layers)
    except Exception as error:  # timm's models fail in different ways
        raise InputError(
            f"--features {name} gives no maps of pictures of any size ({type(error).__name__}: "
            f"{str(error).splitlines()[0] if str(error) else ''}); choose a convolutional model."
        ) from error
    return Features(used, used.style, used.content, f"timm's {model} ({file.name})")


class _Maps:
    """The maps of a model of `features_only`, by the names of its modules."""

    def __init__(self, net: Any) -> None:
        self._net: nn.Module = net.eval().requires_grad_(False)
        configuration = getattr(net, "pretrained_cfg", None) or {}
        self._pixels = PixelScale(configuration.get("mean", IMAGENET_MEAN), configuration.get("std", IMAGENET_STD))
        info = net.feature_info
        self._channels = dict(zip(info.module_name(), info.channels(), strict=True))
        reductions = dict(zip(info.module_name(), info.reduction(), strict=True))
        self.style = tuple(layer for layer, reduction in reductions.items() if reduction <= COARSEST)
        self.content = next(layer for layer, reduction in reductions.items() if reduction >= CONTENT_REDUCTION)
        self.layers = {*self.style, self.content}

    def __call__(self, x: Tensor, layers: Collection[str]) -> dict[str, Tensor]:
        maps = zip(self._channels.items(), self._net(self._pixels(x)), strict=True)
        # Transformers return [N, H, W, C].
        return {
            layer: value if value.shape[1] == channels else value.movedim(-1, 1)
            for (layer, channels), value in maps
            if layer in layers
        }


def _cached(timm: Any, model: str) -> Path | None:
    """The file of a model's weights in the caches; nothing is downloaded."""
    configuration = timm.get_pretrained_cfg(model)
    if configuration is None:
        return None
    if configuration.url:
        file = Path(torch.hub.get_dir()) / "checkpoints" / Path(configuration.url).name
        return file if file.is_file() else None
    look_up = import_module("huggingface_hub").try_to_load_from_cache

    for name in ("model.safetensors", "pytorch_model.bin"):
        found = look_up(configuration.hf_hub_id, name) if configuration.hf_hub_id else None
        if isinstance(found, str):
            return Path(found)
    return None
