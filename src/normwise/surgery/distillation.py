"""Training a model towards another's outputs, without labels."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..core.numbers import check_number, check_whole
from ..signal.batches import Forward
from ..signal.modules import tensors_in
from ..signal.protection import random_numbers_kept
from .batches import Batches
from .transition import Transition

#: The share of the steps over which t grows.
ANNEALING = 0.75
_NAME = "Swap.distill"


class Distilled(NamedTuple):
    """The loss at each step: the squared difference of the outputs over the old ones' variance."""

    losses: tuple[float, ...]


def distill(
    model: nn.Module,
    teacher: nn.Module,
    transitions: Sequence[Transition],
    loader: Any,
    forward: Forward | None,
    steps: int,
    lr: float,
) -> Distilled:
    """As `Swap.distill`; on any exception parameters, buffers and ``t`` are as before."""
    batches = Batches(loader, forward, None, _NAME)
    check_whole(_NAME, "steps", steps, 1)
    check_number(_NAME, "lr", lr, 0.0)
    parameters = [p for p in model.parameters() if p.requires_grad]
    if not parameters:
        raise ValueError(f"{_NAME}: no parameter of the model requires a gradient.")
    start, losses = transitions[0].t, []
    with _training(model, teacher, transitions, parameters):
        optimizer = torch.optim.Adam(parameters, lr)
        for step, run in enumerate(_repeated(batches, steps)):
            done = (step + 1) / steps
            for transition in transitions:
                transition.t = min(1.0, start + (1 - start) * done / ANNEALING)
            optimizer.param_groups[0]["lr"] = lr * (1 + math.cos(math.pi * step / steps)) / 2
            loss = _distance(run, model, teacher)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
            if not math.isfinite(losses[-1]):
                raise ValueError(f"{_NAME}: the loss of step {step + 1} is {losses[-1]}; try a smaller lr than {lr:g}.")
        for transition in transitions:
            transition.t = 1.0
    return Distilled(tuple(losses))


def _repeated(batches: Batches, steps: int) -> Iterator[Callable[[nn.Module], Any]]:
    """One batch for each step, from as many passes over the loader as needed."""
    done = 0
    while done < steps:
        for run in batches.runs():
            yield run
            done += 1
            if done == steps:
                return
        if batches.once_only():
            raise ValueError(
                f"{_NAME}: the iterator ended after {done} of {steps} steps; pass a loader, or fewer steps."
            )


def _distance(run: Callable[[nn.Module], Any], model: nn.Module, teacher: nn.Module) -> Tensor:
    with torch.no_grad():
        wanted = [t.float() for t in tensors_in(run(teacher)) if t.is_floating_point()]
    outputs = [t.float() for t in tensors_in(run(model)) if t.is_floating_point()]
    if not wanted or [t.shape for t in wanted] != [t.shape for t in outputs]:
        raise ValueError(f"{_NAME}: model and teacher must return floating-point outputs of equal shapes.")
    parts = [
        (y - target).square().mean() / target.var(correction=0).clamp_min(1e-12)
        for y, target in zip(outputs, wanted, strict=True)
    ]
    return torch.stack(parts).mean()


@contextmanager
def _training(
    model: nn.Module, teacher: nn.Module, transitions: Sequence[Transition], parameters: Sequence[nn.Parameter]
) -> Iterator[None]:
    """Inside the block only the new layers are in training mode. Afterwards modes, gradients and random numbers are
    restored, and after an error also the values."""
    modes = {module: module.training for whole in (model, teacher) for module in whole.modules()}
    gradients, start = [p.grad for p in parameters], transitions[0].t
    tensors = [*parameters, *(b for transition in transitions for b in transition.after.buffers())]
    values = [t.detach().clone() for t in tensors]
    try:
        for module in modes:
            module.training = False
        for transition in transitions:
            transition.after.train()
        with random_numbers_kept({p.device for p in parameters}), torch.inference_mode(False), torch.enable_grad():
            yield
    except BaseException:
        with torch.no_grad():
            for tensor, value in zip(tensors, values, strict=True):
                tensor.copy_(value)
        for transition in transitions:
            transition.t = start
        raise
    finally:
        for module, mode in modes.items():
            module.training = mode
        for p, gradient in zip(parameters, gradients, strict=True):
            p.grad = gradient
