"""Rules about the target of a model: problems of its normalizers with an exporter or a quantizer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrize

from ...layers import SyncBatchNorm
from ...signal.diagnosis.findings import Finding
from ...weights.layers import LAYERS, StandardizedConv
from ..folding import norms
from .subject import Named, Subject, found

_HALF = ("tensorrt", "coreml")
_SMALLEST_IN_HALF = torch.finfo(torch.float16).tiny


def exported_in_training(subject: Subject) -> Iterator[Finding]:
    awake = {name: m for name, m in subject.remembering.items() if m.training}
    if awake and subject.target and subject.model.training:
        yield found(
            "warning",
            "exported in training mode",
            awake,
            f"{{names}} would go to {subject.target} as {'it is' if len(awake) == 1 else 'they are'} in training, "
            "where the batch normalizes.",
            "Call model.eval() first.",
        )


def exported_synchronized(subject: Subject) -> Iterator[Finding]:
    synced = subject.where(lambda m: isinstance(m, (nn.SyncBatchNorm, SyncBatchNorm)))
    if synced and subject.target:
        yield found(
            "warning",
            "exported SyncBatchNorm",
            synced,
            f"{{names}} synchronize{{s}} processes, which {subject.target} does not support.",
            "nw.unsync(model) first.",
        )


def exported_parametrized(subject: Subject) -> Iterator[Finding]:
    """Weights that are computed in each call: unnecessary operations in the exported graph."""
    made = subject.where(_makes_weight)
    if made and subject.target:
        yield found(
            "note",
            "weights made in each call",
            made,
            f"{{names}} compute{{s}} the weight in each call, and {subject.target} would, too.",
            "nw.bake(model) replaces them by plain weights; so does nw.fold(model, example).",
        )


def _makes_weight(module: Any) -> bool:
    hooked = any("Norm" in type(hook).__name__ for hook in module._forward_pre_hooks.values())
    return isinstance(module, StandardizedConv) or (
        isinstance(module, LAYERS) and (parametrize.is_parametrized(module) or hooked)
    )


def exported_unfolded(subject: Subject) -> Iterator[Finding]:
    foldable = _foldable(subject)
    if foldable and subject.target and any(isinstance(m, LAYERS) for m in subject.modules.values()):
        yield found(
            "note",
            "unfolded normalizers",
            foldable,
            "In evaluation {names} only scale{s} and shift{s} each channel, which a layer beside it can hold.",
            f"nw.fold(model.eval(), example) before {subject.target}: exact, and what cannot be folded is named.",
        )


def _foldable(subject: Subject) -> Named:
    reasons = {name: norms.why_not(m) for name, m in subject.normalizers.items() if norms.is_norm(m)}
    return {name: subject.modules[name] for name, reason in reasons.items() if not reason or "training mode" in reason}


def quantized_statistics(subject: Subject) -> Iterator[Finding]:
    """Normalizers with statistics of each input, which quantizers leave in floating point."""
    folded = _foldable(subject)
    own = {name: m for name, m in subject.normalizers.items() if name not in folded and not norms.is_norm(m)}
    if own and subject.target == "quantization":
        yield found(
            "note",
            "statistics of each input",
            own,
            "{names} compute{s} statistics of each input, which quantizers leave in floating point.",
            "nw.swap(model, 'batch', example_inputs=...) and fine-tune, or leave them in floating point.",
        )


def eps_in_half(subject: Subject) -> Iterator[Finding]:
    """A small eps, which is 0 in fp16."""
    small = {n: m for n, m in subject.normalizers.items() if 0 < float(getattr(m, "eps", None) or 1) < 1e-7}
    if small and subject.target in _HALF:
        yield found(
            "warning",
            "eps below half precision",
            small,
            f"eps of {{names}} is 0 in fp16, which {subject.target} uses if possible (its smallest normal number is "
            f"{_SMALLEST_IN_HALF:.1g}).",
            "Fold what can be folded, nw.fold(model, example), and keep the others in fp32.",
        )
