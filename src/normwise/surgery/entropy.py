"""γ and β trained to lower the entropy of a classifier's predictions on unlabelled data."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..signal.modules import tensors_in
from ..signal.protection import as_it_was, evaluate, random_numbers_kept
from ..signal.tracing import run_eagerly
from .batches import Batches


class Surer(NamedTuple):
    """Trained values of γ and β, and the mean entropy of each batch before its step, in nats."""

    trained: dict[nn.Parameter, Tensor]
    entropies: tuple[float, ...]


def minimize(model: nn.Module, layers: Sequence[nn.Module], batches: Batches, lr: float, caller: str) -> Surer:
    """One step of Adam on γ and β for each batch, which normalizes by its own statistics.

    The model is unchanged afterwards; the trained values are returned.
    """
    parameters = list(dict.fromkeys(p for layer in layers for p in layer.parameters(recurse=False)))
    if not parameters:
        raise ValueError(f"{caller}: method='entropy' trains γ and β, and the layers have none.")
    values, gradients = [p.detach().clone() for p in parameters], [p.grad for p in parameters]
    entropies = []
    try:
        with as_it_was(model), random_numbers_kept({p.device for p in parameters}), run_eagerly():
            evaluate(model, batch_statistics=True, stochastic_depth=False)
            model.requires_grad_(False)
            for p in parameters:
                p.requires_grad_(True)
            optimizer = torch.optim.Adam(parameters, lr)
            with torch.inference_mode(False), torch.enable_grad():
                for run in batches.runs():
                    entropies.append(_step(optimizer, _entropy(run(model), caller), len(entropies) + 1, caller))
        return Surer({p: p.detach().clone() for p in parameters}, tuple(entropies))
    finally:
        with torch.no_grad():
            for p, value, gradient in zip(parameters, values, gradients, strict=True):
                p.copy_(value)
                p.grad = gradient


def _step(optimizer: torch.optim.Optimizer, entropy: Tensor, number: int, caller: str) -> float:
    optimizer.zero_grad()
    entropy.backward()
    optimizer.step()
    value = entropy.item()
    if not math.isfinite(value):
        raise ValueError(
            f"{caller}: the entropy of batch {number} is {value}; leave out batches with NaN, or lower lr."
        )
    return value


def _entropy(output: Any, caller: str) -> Tensor:
    logits = next((t for t in tensors_in(output) if t.is_floating_point()), None)
    if logits is None or logits.dim() < 2 or logits.shape[1] < 2:
        found = "no floating tensor" if logits is None else f"an output {list(logits.shape)}"
        raise ValueError(
            f"{caller}: method='entropy' needs logits [N, K, *] of K classes as the model's first output, received "
            f"{found}; return them in forward=."
        )
    logarithms = logits.float().log_softmax(1)
    return -(logarithms.exp() * logarithms).sum(1).mean()
