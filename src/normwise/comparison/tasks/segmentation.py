"""A class for each pixel or voxel."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...errors import InputError
from ..metric import DICE, IOU
from .classes import ClassTask, class_counts, overlaps
from .task import shape_of, tensor_of, whole


class Segmentation(ClassTask):
    """Samples float32 `[N, C, *space]`, targets int64 `[N, *space]`, outputs logits `[N, K, *space]`."""

    name = "segmentation"
    metrics = (DICE, IOU)
    model, data = "unet", "shapes"
    norms = ("batch", "group", "instance", "layer", "none")
    epochs = 6
    loss_in_words = "Cross-entropy in nats, mean over the pixels"

    def sums(self, output: Any, y: Tensor) -> Tensor:
        counts = class_counts(tensor_of(output).argmax(1), y, len(self.classes))
        return torch.cat([counts, self._losses(output, y)], 1)

    def values(self, total: Tensor) -> dict[str, float]:
        dice, iou = overlaps(total[:-2], len(self.classes))
        return {"dice": dice, "iou": iou, "loss": float(total[-2] / total[-1])}

    @staticmethod
    def targets(name: str, x: Tensor, y: Tensor) -> Tensor:
        if x.dim() < 4:
            raise InputError(f"{name}: samples have shape {list(x.shape)}; give images [N, C, H, W] or volumes.")
        y = whole(name, "masks", y)
        y = y.squeeze(1) if y.dim() == x.dim() and y.shape[1] == 1 else y
        if y.shape[1:] != x.shape[2:]:
            raise InputError(
                f"{name}: images are of size {_size(x.shape[2:])} and masks of shape {list(y.shape[1:])}; give one "
                "class number for each pixel."
            )
        return y

    @staticmethod
    def check_output(name: str, output: Any, x: Tensor, classes: int) -> None:
        logits, wanted = tensor_of(output), (len(x), *x.shape[2:])
        if not isinstance(logits, Tensor) or logits.dim() != x.dim() or (len(logits), *logits.shape[2:]) != wanted:
            raise InputError(
                f"{name} must give logits [N, classes, {_size(x.shape[2:])}], as large as the images; it gives "
                f"{shape_of(output)} for {list(x.shape)}."
            )
        if logits.shape[1] != classes:
            raise InputError(
                f"{name} gives {logits.shape[1]} outputs for each pixel, the masks have {classes} classes; let the "
                "model's function take `classes`, or build the model with that many outputs."
            )


def _size(space: torch.Size) -> str:
    return "×".join(map(str, space))
