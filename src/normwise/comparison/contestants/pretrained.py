"""Start every model of a comparison from trained weights."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...checkpoint_files import is_whole_model, load_whole, read_state
from ...errors import InputError, listed
from ..isolation import isolated
from .models import REFERENCE, Blueprint

#: Given instead of a file: the weights in the cache of the library that makes the model.
PRETRAINED = "pretrained"
_OUTPUTS = {nn.Linear: "out_features", nn.Conv1d: "out_channels", nn.Conv2d: "out_channels"}


def with_weights(blueprint: Blueprint, weights: str, classes: int) -> Blueprint:
    """The model with the weights of a file, or, if `weights` is "pretrained", with those of its library.

    If the file has another number of outputs than `classes`, or no last layer, the model's new last layer is kept. The
    normalizers of a trained model are replaced, even if its function takes `norm`.

    Raises InputError for files that cannot be read and weights that do not fit, naming the first tensors.
    """
    make = partial(blueprint.make, REFERENCE) if blueprint.takes_norm else blueprint.make
    library = blueprint.name.partition(":")[0]
    if weights == PRETRAINED and library == "timm":
        return _settled(blueprint, _timms_own(make, blueprint.name), "timm's cache")
    path = _torchvisions_own(blueprint.name) if weights == PRETRAINED else Path(weights)
    state = load_whole(path).state_dict() if is_whole_model(path) else read_state(path)
    with isolated(0, "cpu"):
        fresh = _fill(make(), state, path, classes)
    new = f"; {listed(fresh)} begins anew, with as many outputs as the data have classes" if fresh else ""
    return _settled(blueprint, partial(_filled, make, state, path, classes), f"{path}{new}")


def _settled(blueprint: Blueprint, make: Callable[[], nn.Module], source: str) -> Blueprint:
    notes = (
        f"All contestants begin with the weights of {source}. A plain name replaces the model's normalizers and keeps "
        "their γ and β, and their running statistics if the new layers have some.",
    )
    return Blueprint(blueprint.name, make, takes_norm=False, notes=notes)


def _filled(make: Callable[[], nn.Module], state: dict[str, Tensor], path: Path, classes: int) -> nn.Module:
    model = make()
    _fill(model, state, path, classes)
    return model


def _fill(model: nn.Module, state: dict[str, Tensor], path: Path, classes: int) -> list[str]:
    """Load a state dict; returns the names of the last layers that it has no weights for."""
    own = model.state_dict()
    # torch added this counter in version 0.4.1: older files lack it, and a training can start without it.
    lacking = [name for name in own if name not in state and not name.endswith("num_batches_tracked")]
    other = [name for name in own if name in state and own[name].shape != state[name].shape]
    heads = [name for name, module in model.named_modules() if _outputs(module) == classes]
    fresh = sorted({name.rpartition(".")[0] for name in (*lacking, *other)})
    wrong = [name for name in lacking if name.rpartition(".")[0] not in heads[-1:]]
    if wrong:
        raise InputError(f"{path} does not fit {_named(model)}: it lacks {listed(wrong)}.")
    beside = sorted(state.keys() - own.keys())
    if beside:
        raise InputError(f"{path} does not fit {_named(model)}: it also has {listed(beside)}.")
    for name in other:
        theirs, ours = list(state[name].shape), list(own[name].shape)
        if name.rpartition(".")[0] not in heads or theirs[1:] != ours[1:]:
            raise InputError(f"{path} does not fit {_named(model)}: {name} is {theirs} there and {ours} in the model.")
    bad = [name for name, value in state.items() if value.is_floating_point() and not torch.isfinite(value).all()]
    if bad:
        raise InputError(f"{path} holds NaN or infinity in {listed(bad)}; give weights that are finite.")
    fitting = {name: value for name, value in state.items() if name.rpartition(".")[0] not in fresh}
    model.load_state_dict(own | fitting)
    return fresh


def _outputs(module: nn.Module) -> int | None:
    """The number of outputs of a layer that may be the last one; None for other layers."""
    return next(
        (getattr(module, name) for layer_class, name in _OUTPUTS.items() if isinstance(module, layer_class)), None
    )


def _named(model: nn.Module) -> str:
    return f"the model ({type(model).__name__})"


def _torchvisions_own(name: str) -> Path:
    """The file of torchvision's default weights in the cache of torch.hub."""
    library, _, rest = name.partition(":")
    if library != "torchvision":
        raise InputError(
            f"weights={PRETRAINED!r} works for timm:NAME and torchvision:NAME only; for {name} give a file."
        )
    default: Any = importlib.import_module("torchvision").models.get_model_weights(rest).DEFAULT
    path = Path(torch.hub.get_dir()) / "checkpoints" / Path(default.url).name
    if not path.is_file():
        raise InputError(
            f"weights={PRETRAINED!r}: the weights of {name} are not in the cache ({path}), and nothing is downloaded; "
            "put the file there, or give another one as weights=."
        )
    return path


def _timms_own(make: Callable[..., nn.Module], name: str) -> Callable[[], nn.Module]:
    """A function that makes the model with timm's own loader, which adapts the number of classes and channels, from
    the file in timm's cache."""
    timm: Any = importlib.import_module("timm")
    config: Any = timm.get_pretrained_cfg(name.partition(":")[2])
    path = _cached_on_hub(config) if config is not None else None
    if path is None and config is not None and config.url:
        there = Path(torch.hub.get_dir()) / "checkpoints" / Path(config.url).name
        path = there if there.is_file() else None
    if path is None:
        raise InputError(
            f"weights={PRETRAINED!r}: timm has no weights of {name} in its cache, and nothing is downloaded; put them "
            "there, or give a file as weights=."
        )
    return partial(make, pretrained=True, pretrained_cfg_overlay={"file": str(path)})


def _cached_on_hub(config: Any) -> Path | None:
    """The path, in the cache of huggingface_hub, of the weights that a timm configuration names; None without one."""
    if not config.hf_hub_id:
        return None
    look = importlib.import_module("huggingface_hub").try_to_load_from_cache
    for file in filter(None, (config.hf_hub_filename, "model.safetensors", "pytorch_model.bin")):
        found = look(config.hf_hub_id, file)
        if isinstance(found, str):
            return Path(found)
    return None
