"""Rules about properties that conversions have lost."""

from __future__ import annotations

import re
from collections.abc import Iterator

from torch import nn

from ...nets.residual import SkipGain
from ...signal.diagnosis.findings import Finding
from ...weights.layers import CONVOLUTIONS, StandardizedConv
from ..folding.rest import ChannelAffine
from .subject import Subject, found

_CALLED_A_NORMALIZER = re.compile(r"(^|\.)(bn|batch_?norm)\d*$")


def trained_after_folding(subject: Subject) -> Iterator[Finding]:
    """A folded model in training: it computes the same function, but nothing is normalized any more."""
    gone = {
        name: m
        for name, m in subject.modules.items()
        if isinstance(m, (nn.Identity, ChannelAffine)) and _CALLED_A_NORMALIZER.search(name)
    }
    if gone and subject.model.training and not _is_normalizer_free(subject) and _has_plain_convolutions(subject):
        yield found(
            "warning",
            "folded and in training",
            gone,
            "{names} replaced normalizers that were folded: in training nothing is normalized any more."
            if len(gone) > 1
            else "{names} replaced a normalizer that was folded: in training nothing is normalized any more.",
            "Train the model from before nw.fold and fold again, or convert it with nw.normalizer_free(model, "
            "example).",
        )


def _is_normalizer_free(subject: Subject) -> bool:
    return any(isinstance(m, (SkipGain, StandardizedConv)) for m in subject.modules.values())


def _has_plain_convolutions(subject: Subject) -> bool:
    return any(isinstance(m, CONVOLUTIONS) for m in subject.modules.values())


def negative_variances(subject: Subject) -> Iterator[Finding]:
    """Negative variances, the result of ``E[x²] - E[x]²`` in low precision."""
    negative = {
        name: m
        for name, m in subject.normalizers.items()
        if (variance := m._buffers.get("running_var")) is not None and bool((variance < 0).any())
    }
    if negative:
        least = min(float(m._buffers["running_var"].min()) for m in negative.values())  # type: ignore[union-attr]
        yield found(
            "error",
            "negative variance",
            negative,
            f"{{names}} hold{{s}} variances below 0 (the least is {least:.3g}): evaluation gives NaN, or channels "
            "that are far too large.",
            "nw.recalibrate(model, loader) computes them again, exactly.",
            least,
        )
