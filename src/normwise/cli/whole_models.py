"""A file that holds a whole model, loaded without running any code but that of known layers."""

from __future__ import annotations

import pickle
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..comparison import InputError
from ..comparison.models import first_line
from ..signal.diagnosis.findings import listed

#: Of these packages a file may name classes of modules.
_TRUSTED = ("torch.nn", "torchvision", "timm", "normwise")


def load_whole(path: Path) -> nn.Module:
    """The model that ``torch.save(model, path)`` wrote.

    By `torch.load` with ``weights_only=True``, which makes no objects but tensors and those of classes that are named
    to it: subclasses of `torch.nn.Module` in torch.nn, torchvision, timm and normwise.

    Raises InputError for anything else in the file, by name.
    """
    needed = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    classes = {name: _module_class(name) for name in needed}
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


def _module_class(name: str) -> Any:
    """The class of modules that a file names, or None: where it is none, or of another package."""
    package, _, kind = name.rpartition(".")
    if not any(package == trusted or package.startswith(f"{trusted}.") for trusted in _TRUSTED):
        return None
    try:
        found = getattr(import_module(package), kind, None)
    except ImportError:
        return None
    return found if isinstance(found, type) and issubclass(found, nn.Module) else None
