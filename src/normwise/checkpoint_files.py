"""Files of a model's weights, or of a whole model, read without running any code but that of known layers."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from .errors import InputError, first_line, listed

#: The keys under which training scripts keep a model's state in a larger checkpoint.
_CONTAINERS = ("state_dict", "model_state_dict", "model", "net")
READABLE = (".pt", ".pth", ".safetensors")
#: The packages whose module classes a file may name.
_TRUSTED = ("torch.nn", "torchvision", "timm", "normwise")
#: Classes in modules of this package that are plain data.
_HELD = ("normwise.core.policy.StatisticsPolicy",)


def is_whole_model(path: Path) -> bool:
    """Whether a file names classes of modules, as written by ``torch.save(model, path)``.

    Raises InputError for a file that does not exist or cannot be read.
    """
    if not path.is_file():
        raise InputError(f"{path}: there is no such file.")
    if path.suffix == ".safetensors":
        return False
    try:
        if not zipfile.is_zipfile(path):  # from a torch before 1.6: it does not tell which classes it names
            torch.load(path, map_location="cpu", weights_only=True)
            return False
        return bool(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    except pickle.UnpicklingError as error:
        raise _not_unpickled(path) from error
    except Exception as error:  # a damaged file may raise any error
        raise InputError(f"{path} cannot be read: {first_line(error)}") from error


def read_state(path: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint by name, without the prefix of DistributedDataParallel."""
    state = _read(path)
    if state and all(key.startswith("module.") for key in state):
        state = {key.removeprefix("module."): value for key, value in state.items()}
    return state


def _read(path: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint by name; InputError for a file that cannot be read or holds more."""
    if path.suffix not in READABLE:
        raise InputError(f"{path}: a checkpoint is a file {', '.join(READABLE)}.")
    if not path.is_file():
        raise InputError(f"{path}: there is no such file.")
    try:
        if path.suffix == ".safetensors":
            return safetensors().load_file(path)
        found = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise _not_unpickled(path) from error
    except InputError:
        raise
    except Exception as error:  # a damaged file may raise any error
        raise InputError(f"{path} cannot be read: {first_line(error)}") from error
    return _state_in(found, path)


def _not_unpickled(path: Path) -> InputError:
    """For a file that torch refuses; torch's own words recommend to run its code."""
    if zipfile.is_zipfile(path):
        found = "holds more than tensors, and unpickling it could run any code; save model.state_dict() instead"
    else:
        found = "is no checkpoint, is damaged, or holds more than tensors; save model.state_dict() again"
    return InputError(f"{path} {found}.")


def _state_in(found: Any, path: Path) -> dict[str, Tensor]:
    for _ in range(2):
        if isinstance(found, Mapping) and found and all(isinstance(value, Tensor) for value in found.values()):
            return dict(found)
        inner = next((found[key] for key in _CONTAINERS if isinstance(found, Mapping) and key in found), None)
        if inner is None:
            break
        found = inner
    raise InputError(f"{path} holds no state_dict; save model.state_dict().")


def load_whole(path: Path) -> nn.Module:
    """The model that ``torch.save(model, path)`` wrote.

    Read by `torch.load` with ``weights_only=True``, which makes no objects but tensors and those of listed classes:
    here subclasses of `torch.nn.Module` in torch.nn, torchvision, timm and normwise.

    Raises InputError that names any other class in the file.
    """
    needed = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    classes = {name: _known_class(name) for name in needed}
    unknown = sorted(name for name, found in classes.items() if found is None)
    if unknown:
        raise InputError(
            f"{path} holds a model that needs {listed(unknown)}, and unpickling that could run any code; save "
            "model.state_dict() instead, and write the model's name in front of the file."
        )
    try:
        with torch.serialization.safe_globals([found for found in classes.values() if found is not None]):
            model = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, AttributeError, TypeError) as error:
        raise InputError(f"{path} cannot be read: {first_line(error)}") from error
    if not isinstance(model, nn.Module):
        raise InputError(f"{path} holds no model, but {type(model).__name__}.")
    return model


def _known_class(name: str) -> Any:
    """The class that a file names, if it is a module or plain data of a known package; otherwise None."""
    package, _, class_name = name.rpartition(".")
    if not any(package == trusted or package.startswith(f"{trusted}.") for trusted in _TRUSTED):
        return None
    try:
        found = getattr(import_module(package), class_name, None)
    except ImportError:
        return None
    known = isinstance(found, type) and (issubclass(found, nn.Module) or name in _HELD)
    return found if known else None


def safetensors() -> ModuleType:
    """The library's functions for torch; InputError if it is not installed."""
    try:
        return import_module("safetensors.torch")
    except ModuleNotFoundError as error:
        raise InputError("A .safetensors file needs safetensors. Write: pip install safetensors") from error
