"""Weights in files: read into a model, and written whole or not at all."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from .. import files
from ..comparison import InputError
from ..comparison.models import first_line
from ..signal.diagnosis.findings import listed

#: Under which names training scripts keep a model's state in a larger checkpoint.
_CONTAINERS = ("state_dict", "model_state_dict", "model", "net")
READABLE = (".pt", ".pth", ".safetensors")
WRITABLE = (*READABLE, ".pt2")


def load_weights(model: nn.Module, path: Path) -> None:
    """Load a checkpoint into a model; pickles only as far as they hold tensors.

    Raises InputError for files that cannot be read, and for a state of another model.
    """
    state = read_state(path)
    wanted = model.state_dict()
    for kind, names in (("lacks", wanted.keys() - state.keys()), ("also has", state.keys() - wanted.keys())):
        if names:
            raise InputError(f"{path} is the state of another model: it {kind} {listed(sorted(names))}.")
    try:
        model.load_state_dict(state)
    except (RuntimeError, TypeError, AttributeError) as error:
        raise InputError(f"{path} is the state of another model: {' '.join(str(error).split())}") from error


def is_whole_model(path: Path) -> bool:
    """Whether a file asks for classes of modules, as ``torch.save(model, path)`` makes it do.

    Raises InputError for a file that is not there or cannot be read.
    """
    if not path.is_file():
        raise InputError(f"{path}: there is no such file.")
    if path.suffix == ".safetensors":
        return False
    try:
        return bool(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    except Exception as error:  # what a damaged file raises depends on where it is damaged
        raise InputError(f"{path} cannot be read: {first_line(error)}") from error


def read_state(path: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint by name, without what DistributedDataParallel puts in front."""
    state = _read(path)
    if state and all(key.startswith("module.") for key in state):
        state = {key.removeprefix("module."): value for key, value in state.items()}
    return state


def _read(path: Path) -> dict[str, Tensor]:
    if path.suffix not in READABLE:
        raise InputError(f"{path}: a checkpoint is a file {', '.join(READABLE)}.")
    if not path.is_file():
        raise InputError(f"{path}: there is no such file.")
    try:
        if path.suffix == ".safetensors":
            return _safetensors().load_file(path)
        found = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise InputError(
            f"{path} holds more than tensors, and unpickling it could run any code; save model.state_dict() instead."
        ) from error
    except InputError:
        raise
    except Exception as error:  # what a damaged file raises depends on where it is damaged
        raise InputError(f"{path} cannot be read: {first_line(error)}") from error
    return _state_in(found, path)


def _state_in(found: Any, path: Path) -> dict[str, Tensor]:
    for _ in range(2):
        if isinstance(found, Mapping) and found and all(isinstance(value, Tensor) for value in found.values()):
            return dict(found)
        inner = next((found[key] for key in _CONTAINERS if isinstance(found, Mapping) and key in found), None)
        if inner is None:
            break
        found = inner
    raise InputError(f"{path} holds no state_dict; save model.state_dict().")


def check_out(path: Path) -> None:
    """Raise InputError before the work where a suffix says nothing, or what writes it is missing."""
    if path.suffix not in WRITABLE:
        raise InputError(f"--out {path}: write a file {', '.join(WRITABLE)}.")
    if path.suffix == ".safetensors":
        _safetensors()


def save(model: nn.Module, example: Tensor, path: Path) -> None:
    """The model's state, or for ``.pt2`` the exported program, which needs no code of the model."""
    writers: dict[str, Callable[[Path], object]] = {
        ".pt2": lambda file: torch.export.save(_exported(model, example), file),
        ".safetensors": lambda file: _safetensors().save_file(_separate(model.state_dict()), file),
    }
    try:
        with files.replacing(path) as temporary:
            writers.get(path.suffix, lambda file: torch.save(model.state_dict(), file))(temporary)
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror or error}") from error


def _exported(model: nn.Module, example: Tensor) -> torch.export.ExportedProgram:
    """The model as a program: for any batch and image size that it takes, as far as its graph allows."""
    free = {axis: torch.export.Dim.AUTO for axis in range(example.dim()) if axis != 1}
    try:
        return torch.export.export(model, (example,), dynamic_shapes=(free,))
    except Exception as error:  # what stands in the way is the user's code
        raise InputError(f"The model cannot be exported: {first_line(error)} Write .pt instead of .pt2.") from error


def _separate(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """safetensors refuses tensors that share memory."""
    return {name: tensor.detach().clone().contiguous() for name, tensor in state.items()}


def _safetensors() -> ModuleType:
    try:
        return import_module("safetensors.torch")
    except ModuleNotFoundError as error:
        raise InputError("A .safetensors file needs safetensors. Write: pip install safetensors") from error
