"""Rules about training mode, evaluation and frozen layers."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from ...signal.diagnosis.findings import Finding
from ..transition import Transition
from .subject import Subject, found


def training_within_evaluation(subject: Subject) -> Iterator[Finding]:
    """A model in evaluation with a part in training mode."""
    awake = {name: m for name, m in subject.remembering.items() if m.training}
    if awake and not subject.model.training:
        yield found(
            "warning",
            "mixed modes",
            awake,
            "{names} still normalize by the batch and update their statistics, though the model is in evaluation."
            if len(awake) > 1
            else "{names} still normalizes by the batch and updates its statistics, though the model is in evaluation.",
            "Call model.eval() once more.",
        )


def evaluation_within_training(subject: Subject) -> Iterator[Finding]:
    """A layer frozen by ``eval()``, which the next ``train()`` undoes."""
    asleep = {name: m for name, m in subject.remembering.items() if not m.training}
    if asleep and subject.model.training:
        yield found(
            "warning",
            "mixed modes",
            asleep,
            "{names}, in a model in training, normalize{s} by running statistics only until the next model.train().",
            "nw.freeze(model, where=...) if they are to be frozen, which train() does not undo; else model.train().",
        )


def half_frozen(subject: Subject) -> Iterator[Finding]:
    """γ and β without a gradient, in a layer whose statistics are still updated."""
    moving = {name: m for name, m in subject.remembering.items() if m.training and _is_held(m)}
    if moving and subject.model.training:
        yield found(
            "warning",
            "half frozen",
            moving,
            "{names} get{s} no gradient (requires_grad=False) but normalize{s} by the batch and update{s} running "
            "statistics: a frozen part that still changes.",
            "nw.freeze(model, affine=True, where=...) also freezes the statistics.",
        )


def _is_held(layer: nn.Module) -> bool:
    own = list(layer.parameters(recurse=False))
    return bool(own) and not any(p.requires_grad for p in own)


def unfinished_swap(subject: Subject) -> Iterator[Finding]:
    """A swap that is not finished: the layer still computes both normalizers."""
    between = {name: m for name, m in subject.modules.items() if isinstance(m, Transition)}
    if between:
        t = next(iter(between.values())).t
        yield found(
            "warning",
            "unfinished swap",
            between,
            f"{{names}} {'is' if len(between) == 1 else 'are'} in the middle of a swap (t = {t:g}): old and new "
            "normalizers are both there.",
            "Call the swap's advance(1.0) and finish(), or undo().",
            t,
        )
