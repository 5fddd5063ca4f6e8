"""The model from the arguments MODEL and CHECKPOINT of a command."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from torch import nn

from ..checkpoint_files import READABLE, is_whole_model, load_whole
from ..comparison import InputError
from .checkpoints import load_weights
from .model_names import model_builder


def given_model(name: str, checkpoint: Path | None) -> nn.Module:
    """The model in evaluation: by its name, with the weights of a checkpoint, or from a file with a whole model.

    Raises InputError for unknown names, and for files without a model or with the weights of another one.
    """
    path = Path(name)
    if path.suffix in READABLE and (":" not in name or path.is_file()):
        if checkpoint is not None:
            raise InputError(f"{name} and {checkpoint} are both files; write the model's name in front of its weights.")
        if is_whole_model(path):
            return load_whole(path).eval()
        raise InputError(
            f"{name} holds weights without a model; write the model's name in front of it, as in torchvision:resnet18 "
            f"{name}."
        )
    sys.path.insert(0, os.getcwd())  # where package.module:function is looked up
    net = model_builder(name)()
    if checkpoint is not None:
        load_weights(net, checkpoint)
    return net.eval()
