"""Rules about numbers and switches of normalizers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from ...signal.diagnosis.findings import Finding
from ...signal.diagnosis.sites import INSTANCE
from .subject import Subject, found

LARGE_EPS = 0.05


def no_momentum(subject: Subject) -> Iterator[Finding]:
    """A weight of 0 for each new value."""
    still = {name: m for name, m in subject.remembering.items() if getattr(m, "momentum", None) == 0}
    if still:
        yield found(
            "warning",
            "momentum 0",
            still,
            "{names} give{s} each new batch the weight momentum=0: the running statistics never move.",
            "Write momentum=0.1; or, if they are meant to stay, nw.freeze(model), which holds in training too.",
            0.0,
        )


def odd_eps(subject: Subject) -> Iterator[Finding]:
    """No floor under the variance, or one that is as large as variances are."""
    none = {name: m for name, m in subject.normalizers.items() if _eps(m) == 0.0}
    large = {name: m for name, m in subject.normalizers.items() if (_eps(m) or 0) >= LARGE_EPS}
    if none:
        yield found(
            "warning",
            "eps 0",
            none,
            "{names} divide{s} by a deviation with nothing added to it: a channel that does not vary gives NaN.",
            "Write layer.eps = 1e-5.",
            0.0,
        )
    if large:
        eps = max(_eps(m) or 0 for m in large.values())
        yield found(
            "warning",
            "large eps",
            large,
            f"eps={eps:g} of {{names}} is as large as variances are, so that the output's is not 1.",
            "Was it meant for momentum? Write layer.eps = 1e-5, before training or recalibrating: a trained net has "
            "learned with the one it has.",
            eps,
        )


def _eps(module: nn.Module) -> float | None:
    eps: Any = getattr(module, "eps", None)
    return float(eps) if isinstance(eps, (int, float)) else None


def several_eps(subject: Subject) -> Iterator[Finding]:
    """Layers of one class with different numbers: a port that forgot some."""
    kinds: dict[type, dict[float, list[str]]] = defaultdict(lambda: defaultdict(list))
    for name, module in subject.normalizers.items():
        eps = _eps(module)
        if eps is not None:
            kinds[type(module)][eps].append(name)
    for kind, by_eps in kinds.items():
        if len(by_eps) > 1:
            rare = min(by_eps, key=lambda eps: len(by_eps[eps]))
            usual = max(by_eps, key=lambda eps: len(by_eps[eps]))
            yield found(
                "note",
                "several eps",
                by_eps[rare],
                f"{{names}} ha{'s' if len(by_eps[rare]) == 1 else 've'} eps={rare:g}, where most {kind.__name__} of "
                f"this model have {usual:g}.",
                "Weights of another framework? nw.load_foreign sets each layer's eps where the checkpoint says it.",
                rare,
            )


def narrow_statistics(subject: Subject) -> Iterator[Finding]:
    """Running statistics that went to half precision with the model: a conversion that lost something."""
    narrow = {
        name: m
        for name, m in subject.normalizers.items()
        if any(b.dtype in (torch.float16, torch.bfloat16) for b in m.buffers(recurse=False))
    }
    if narrow:
        yield found(
            "warning",
            "statistics in half precision",
            narrow,
            "{names} keep{s} running statistics in half precision, where an update of 10 % of a small difference is "
            "rounded away.",
            "Call .float() on these layers after .half() or .bfloat16(), or take normwise's layers, whose statistics "
            "stay wide; then nw.recalibrate(model, loader).",
        )


def tracked_instance_norm(subject: Subject) -> Iterator[Finding]:
    """The instance normalizes in training and the memory in evaluation."""
    tracked = {
        name: m
        for name, m in subject.remembering.items()
        if isinstance(m, INSTANCE) and getattr(m, "track_running_stats", False)
    }
    if tracked:
        yield found(
            "note",
            "tracked InstanceNorm",
            tracked,
            "{names} normalize{s} by each instance in training and by running statistics in evaluation, which is "
            "another function.",
            "If that is not meant, nw.swap(model, 'instance', start='copy') gives layers that keep none.",
        )


def average_restarts(subject: Subject) -> Iterator[Finding]:
    """``momentum=None`` averages over the batches that were counted, and the count was lost."""
    lost = {
        name: m
        for name, m in subject.remembering.items()
        if getattr(m, "momentum", 0.1) is None and _counts_none(m) and _remembers_something(m)
    }
    if lost:
        yield found(
            "warning",
            "lost count of batches",
            lost,
            "{names} average{s} over all batches (momentum=None) and count{s} 0 so far, though there are statistics: "
            "the next batch in training replaces them.",
            "Set num_batches_tracked to what was trained with, or hold the statistics: nw.freeze(model).",
        )


def _counts_none(module: nn.Module) -> bool:
    count = getattr(module, "num_batches_tracked", None)
    return isinstance(count, torch.Tensor) and int(count) == 0


def _remembers_something(module: nn.Module) -> bool:
    mean, variance = module._buffers.get("running_mean"), module._buffers.get("running_var")
    return bool((mean is not None and mean.any()) or (variance is not None and (variance != 1).any()))
