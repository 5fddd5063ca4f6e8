"""The next token."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from ...errors import InputError
from ..metric import PERPLEXITY
from .classes import ClassTask
from .labelling import check_length
from .task import shape_of, whole


class Language(ClassTask):
    """Samples int64 `[N, L]`, targets the tokens that follow, int64 `[N, L]`, outputs logits `[N, L, V]`."""

    name = "language"
    metrics = (PERPLEXITY,)
    model, data = "gpt", "text"
    norms = ("token-layer", "token-rms", "token-tanh", "none")
    epochs = 4
    loss_in_words = "Cross-entropy in nats, mean over the tokens"
    takes_ids = True
    class_dim = -1

    def sums(self, output: Any, y: Tensor) -> Tensor:
        return self._losses(output, y)

    def values(self, total: Tensor) -> dict[str, float]:
        loss = float(total[0] / total[1])
        return {"perplexity": math.exp(loss) if loss < 700 else math.inf, "loss": loss}

    @staticmethod
    def targets(name: str, x: Tensor, y: Tensor) -> Tensor:
        if x.is_floating_point() or x.dim() != 2 or y.shape != x.shape:
            raise InputError(
                f"{name}: tokens are {x.dtype} of shape {list(x.shape)}; give whole numbers: [N, L + 1], or all of the "
                "text in one row, or pairs of tokens and those that follow, both [N, L]."
            )
        y = whole(name, "tokens", y)
        check_length(name, y)
        return y

    @staticmethod
    def check_output(name: str, output: Any, x: Tensor, classes: int) -> None:
        if shape_of(output) != [*x.shape, classes]:
            raise InputError(
                f"{name} must give logits of the next token, [N, L, {classes}], it gives {shape_of(output)} for "
                f"{list(x.shape)} tokens; let the model's function take `classes`, the size of the vocabulary."
            )
