"""Rules about where a model goes: what an exporter or a quantizer makes of its normalizers."""

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
            f"{{names}} synchronize{{s}} processes, which {subject.target} knows nothing of.",
            "nw.unsync(model) first.",
        )


def exported_parametrized(subject: Subject) -> Iterator[Finding]:
    """Weights that are made anew in each call: operations in the graph that nobody needs."""
    made = subject.where(_makes_weight)
    if made and subject.target:
        yield found(
            "note",
            "weights made in each call",
            made,
            f"{{names}} compute{{s}} the weight in each call, and {subject.target} would, too.",
            "nw.bake(model) writes the weights out; nw.fold(model, example) does it as well.",
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
    """Statistics of each input are means and variances of integers, which quantizers leave in floating point."""
    folded = _foldable(subject)
    own = {name: m for name, m in subject.normalizers.items() if name not in folded and not norms.is_norm(m)}
    if own and subject.target == "quantization":
        yield found(
            "note",
            "statistics of each input",
            own,
            "{names} measure{s} each input, so that quantizers leave floating-point islands there."
            if len(own) > 1
            else "{names} measures each input, so that quantizers leave a floating-point island there.",
            "nw.swap(model, 'batch', example_inputs=...) and fine-tune, or leave them in floating point.",
        )


def eps_in_half(subject: Subject) -> Iterator[Finding]:
    """These run in fp16 where they can, in which a small eps is nothing."""
    small = {n: m for n, m in subject.normalizers.items() if 0 < float(getattr(m, "eps", None) or 1) < 1e-7}
    if small and subject.target in _HALF:
        yield found(
            "warning",
            "eps below half precision",
            small,
            f"eps of {{names}} is 0 in fp16, in which {subject.target} runs what it can (the smallest normal number is "
            f"{_SMALLEST_IN_HALF:.1g}).",
            "Fold what can be folded, nw.fold(model, example), and keep the others in fp32.",
        )
