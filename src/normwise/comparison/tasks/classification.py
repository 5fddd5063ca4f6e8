"""One class for each sample."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...errors import InputError
from ..metric import ACCURACY
from .classes import ClassTask
from .task import shape_of, tensor_of


class Classification(ClassTask):
    """Targets int64 `[N]`, outputs logits `[N, K]`."""

    name = "classification"
    metrics = (ACCURACY,)
    model, data = "resnet8", "digits"
    norms = ("batch", "group", "instance", "layer", "none", "nf")
    optimizer, epochs = "sgd", 6
    loss_in_words = "Cross-entropy in nats"
    needs_interval = False

    def sums(self, output: Any, y: Tensor) -> Tensor:
        hits = (tensor_of(output).argmax(1) == y).double()
        return torch.cat([hits[:, None], self._losses(output, y)], 1)

    def values(self, total: Tensor) -> dict[str, float]:
        hits, loss, samples = total.tolist()
        return {"accuracy": hits / samples, "loss": loss / samples}

    @staticmethod
    def targets(name: str, x: Tensor, y: Tensor) -> Tensor:  # noqa: ARG004
        if y.is_floating_point() or y.is_complex():
            raise InputError(
                f"{name}: labels are of type {y.dtype}; return integers, one class number per sample, or write "
                "task='regression'."
            )
        return y.long()

    @staticmethod
    def check_output(name: str, output: Any, x: Tensor, classes: int) -> None:
        logits = tensor_of(output)
        if not isinstance(logits, Tensor) or logits.dim() != 2 or len(logits) != len(x):
            raise InputError(f"{name} must give logits [N, classes], it gives {shape_of(output)} for {len(x)} samples.")
        if logits.shape[1] < classes:
            raise InputError(
                f"{name} gives {logits.shape[1]} outputs, the data have {classes} classes; let the model's function "
                "take `classes`, or build the model with that many outputs."
            )
