"""A class for each token of a sequence."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...errors import InputError
from ..metric import ACCURACY, F1
from .classes import ClassTask, class_counts, overlaps
from .task import shape_of, tensor_of, whole


class Labelling(ClassTask):
    """Samples int64 `[N, L]` or float32 `[N, L, C]`, targets int64 `[N, L]`, -100 where padded, outputs `[N, L, K]`."""

    name = "labelling"
    metrics = (F1, ACCURACY)
    model, data = "tagger", "words"
    norms = ("batch", "group", "layer", "none")
    epochs = 6
    loss_in_words = "Cross-entropy in nats, mean over the tokens"
    takes_ids = True
    class_dim = -1

    def sums(self, output: Any, y: Tensor) -> Tensor:
        counts = class_counts(tensor_of(output).argmax(-1), y, len(self.classes))
        return torch.cat([counts, self._losses(output, y)], 1)

    def values(self, total: Tensor) -> dict[str, float]:
        classes = len(self.classes)
        hits, tokens = float(total[:classes].sum()), float(total[-1])
        return {
            "f1": overlaps(total[:-2], classes)[0],
            "accuracy": hits / tokens,
            "loss": float(total[-2]) / tokens,
        }

    @staticmethod
    def targets(name: str, x: Tensor, y: Tensor) -> Tensor:
        y = whole(name, "labels", y)
        ids = not x.is_floating_point()
        if x.dim() != (2 if ids else 3) or y.shape != x.shape[:2]:
            raise InputError(
                f"{name}: sequences have shape {list(x.shape)} and labels {list(y.shape)}; give token numbers [N, L] "
                "or features [N, L, C], and a label for each token, [N, L], -100 where it does not count."
            )
        check_length(name, y)
        return y

    @staticmethod
    def check_output(name: str, output: Any, x: Tensor, classes: int) -> None:
        if shape_of(output) != [*x.shape[:2], classes]:
            raise InputError(
                f"{name} must give logits of each token, [N, L, {classes}], it gives {shape_of(output)} for "
                f"{list(x.shape[:2])} tokens."
            )


def check_length(name: str, y: Tensor) -> None:
    """Raises InputError where a sequence has no token, or none that counts."""
    if not y.shape[1] or bool((y < 0).all(1).any()):
        raise InputError(f"{name}: a sequence of length 0, or without a label that counts; leave it out.")
