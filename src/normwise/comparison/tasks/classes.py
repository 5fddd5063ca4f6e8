"""The common part of tasks with class numbers as targets."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from .target_statistics import IGNORED
from .task import Task, tensor_of

#: A class that never occurs among the training targets still has some probability.
LEAST_COUNT = 0.5


class ClassTask(Task):
    """Cross-entropy over the dimension `class_dim` of the outputs; targets that are `IGNORED` do not count."""

    class_dim = 1

    def loss(self, output: Any, y: Tensor) -> Tensor:
        return F.cross_entropy(self._class_second(output), y, ignore_index=IGNORED)

    def constant(self, y: Tensor) -> Tensor:
        """The logarithms of the training targets' frequencies: the most frequent class, at its probability."""
        counts = self.statistics.counts.to(y.device).double().clamp_min(LEAST_COUNT)
        logits = (counts / counts.sum()).log()
        if self.class_dim == 1:
            return logits.view(1, -1, *[1] * (y.dim() - 1)).expand(len(y), -1, *y.shape[1:])
        return logits.expand(*y.shape, -1)

    def _class_second(self, output: Any) -> Tensor:
        """The outputs as cross-entropy takes them, `[N, K, ...]`."""
        output = tensor_of(output)
        return output if self.class_dim == 1 else output.movedim(self.class_dim, 1)

    def _losses(self, output: Any, y: Tensor) -> Tensor:
        """float64 `[n, 2]`: the sum of the losses of each sample, and how many targets it has."""
        losses = F.cross_entropy(self._class_second(output).float(), y, ignore_index=IGNORED, reduction="none")
        return torch.stack([_added(losses), _added(y != IGNORED)], 1)


def _added(x: Tensor) -> Tensor:
    """float64 `[n]`: the sum over each sample."""
    return x.double().reshape(len(x), -1).sum(1)


def class_counts(answers: Tensor, y: Tensor, classes: int) -> Tensor:
    """float64 `[n, 3 K]`: for each sample and class the number of true positives, predictions, and targets."""
    counted = y != IGNORED
    hits = torch.where(counted & (answers == y), answers, classes)
    each = [hits, torch.where(counted, answers, classes), torch.where(counted, y, classes)]
    return torch.cat([_histogram(labels, classes) for labels in each], 1)


def overlaps(total: Tensor, classes: int) -> tuple[float, float]:
    """Dice coefficient (F1 for tokens) and intersection over union, means over the classes that occur or are predicted.

    .. math:: D_k = 2 |A_k ∩ B_k| / (|A_k| + |B_k|), \\qquad J_k = |A_k ∩ B_k| / |A_k ∪ B_k|
    """
    both, answered, right = total.split(classes)
    present = answered + right > 0
    both, either = both[present], (answered + right)[present]
    return float((2 * both / either).mean()), float((both / (either - both)).mean())


def _histogram(labels: Tensor, classes: int) -> Tensor:
    """float64 `[n, K]`: how often each class is in each sample; labels of `classes` are left out."""
    flat = labels.reshape(len(labels), -1)
    counts = torch.zeros(len(labels), classes + 1, dtype=torch.float64, device=labels.device)
    return counts.scatter_add_(1, flat, torch.ones_like(flat, dtype=torch.float64))[:, :classes]
