"""Read checkpoint files into a model, and write them whole or not at all."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from .. import files
from ..checkpoint_files import READABLE, read_state, safetensors
from ..errors import InputError, first_line, listed

WRITABLE = (*READABLE, ".pt2")


def load_weights(model: nn.Module, path: Path) -> None:
    """Load a checkpoint into a model; of pickle files only tensors are loaded.

    Raises InputError for files that cannot be read, and for the state of another model.
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


def check_out(path: Path) -> None:
    """Raise InputError, before the work, for an unknown suffix or a missing package for it."""
    if path.suffix not in WRITABLE:
        raise InputError(f"--out {path}: write a file {', '.join(WRITABLE)}.")
    if path.suffix == ".safetensors":
        safetensors()


def save(model: nn.Module, example: Tensor, path: Path) -> None:
    """Write the model's state, or for ``.pt2`` the exported program, which does not need the code of the model."""
    writers: dict[str, Callable[[Path], object]] = {
        ".pt2": lambda file: torch.export.save(_exported(model, example), file),
        ".safetensors": lambda file: safetensors().save_file(_separate(model.state_dict()), file),
    }
    try:
        with files.replacing(path) as temporary:
            writers.get(path.suffix, lambda file: torch.save(model.state_dict(), file))(temporary)
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror or error}") from error


def _exported(model: nn.Module, example: Tensor) -> torch.export.ExportedProgram:
    """The model as an exported program, for other batch and image sizes if its graph allows."""
    free = {axis: torch.export.Dim.AUTO for axis in range(example.dim()) if axis != 1}
    try:
        return torch.export.export(model, (example,), dynamic_shapes=(free,))
    except Exception as error:  # the user's code may raise anything
        raise InputError(f"The model cannot be exported: {first_line(error)} Write .pt instead of .pt2.") from error


def _separate(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state in which no tensors share memory, as safetensors requires."""
    return {name: tensor.detach().clone().contiguous() for name, tensor in state.items()}
