"""The conditions of the conditional layers: labels, or weights over the K conditions."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from normwise.core.layout import check_memory
from normwise.core.moments import widen
from normwise.core.numbers import check_whole
from normwise.core.observed import has_values
from normwise.core.tables import check_place, check_required
from normwise.operations.context import without_autocast
from normwise.operations.saved import guarded

INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


def is_labels(condition: Tensor, caller: str) -> bool:
    """Whether a condition holds labels (integers) or weights (floating); anything else raises a TypeError."""
    if isinstance(condition, Tensor):
        if condition.dtype in INTEGERS:
            return True
        if condition.is_floating_point():
            return False
    received = condition.dtype if isinstance(condition, Tensor) else type(condition).__name__
    raise TypeError(
        f"{caller}: the condition must be an integer tensor of labels or a floating tensor of weights, received "
        f"{received}."
    )


def check_labels(labels: Tensor, conditions: int, caller: str) -> None:
    """Require labels from 0 to K - 1. Checked on the CPU only: a GPU would have to be waited for, and raises itself."""
    if labels.numel() == 0 or not has_values(labels):
        return
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= conditions:
        wrong = low if low < 0 else high
        raise ValueError(f"{caller}: labels must be 0 to {conditions - 1} ({conditions} conditions), received {wrong}.")


class ConditionTables(nn.Module):
    """The tables ``weight`` and ``bias``, ``[K, C]`` each, with a row for each of K conditions."""

    weight: Tensor
    bias: Tensor
    num_conditions: int
    num_features: int

    def _create_tables(self, num_conditions: int, channels: int, device: Any, dtype: torch.dtype | None) -> None:
        check_whole(self, "num_conditions", num_conditions, 1)
        self.num_conditions = num_conditions
        self.weight = nn.Parameter(torch.ones(num_conditions, channels, device=device, dtype=dtype))
        self.bias = nn.Parameter(torch.zeros(num_conditions, channels, device=device, dtype=dtype))

    def _check_tables(self, x: Tensor) -> None:
        shape = (self.num_conditions, self.num_features)
        check_required(self, x, shape, weight=self.weight, bias=self.bias)

    def _rows(self, condition: Tensor, samples: int) -> tuple[Tensor, Tensor]:
        """Each sample's γ and β, ``[N, C]``: rows of the tables, or their weighted sums."""
        name = type(self).__name__
        # Widened, so that the gradients of samples with the same label are not summed in a narrow dtype.
        tables = widen(self.weight), widen(self.bias)
        labels = is_labels(condition, name)
        check_place(self, "the condition", condition, self.weight)
        check_memory(self.weight, self.bias, condition)
        if labels:
            if condition.shape != (samples,):
                raise ValueError(f"{name}: labels must be [N] = [{samples}], received {list(condition.shape)}.")
            check_labels(condition, self.num_conditions, name)
            own = condition.to(torch.int64, copy=True)  # the backward pass uses the labels, which the caller may change
            weight, bias = (F.embedding(own, table) for table in tables)
            return guarded(weight, self.weight), guarded(bias, self.bias)
        if condition.shape != (samples, self.num_conditions):
            raise ValueError(
                f"{name}: weights must be [N, conditions] = [{samples}, {self.num_conditions}], received "
                f"{list(condition.shape)}; labels are an integer tensor [N]."
            )
        with without_autocast(condition):
            weights = condition.to(tables[0].dtype)
            weight, bias = (weights @ table for table in tables)
        return guarded(weight, self.weight, condition), guarded(bias, self.bias, condition)

    def _row(self, condition: int | Tensor) -> tuple[Tensor, Tensor]:
        """γ and β of one condition, ``[C]`` each: of a label, or of the weights ``[K]``."""
        one = torch.as_tensor(condition, device=self.weight.device)
        weight, bias = self._rows(one.unsqueeze(0), 1)
        return weight.detach().squeeze(0), bias.detach().squeeze(0)
