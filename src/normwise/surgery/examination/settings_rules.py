"""Rules about the settings of normalizers."""

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
    """momentum=0: running statistics that are never updated."""
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
    """An eps of 0, or one as large as typical variances."""
    none = {name: m for name, m in subject.normalizers.items() if _eps(m) == 0.0}
    large = {name: m for name, m in subject.normalizers.items() if (_eps(m) or 0) >= LARGE_EPS}
    if none:
        yield found(
            "warning",
            "eps 0",
            none,
            "{names} add{s} nothing to the variance (eps=0): a constant channel is divided by 0 and gives NaN.",
            "Write layer.eps = 1e-5.",
            0.0,
        )
    if large:
        eps = max(_eps(m) or 0 for m in large.values())
        yield found(
            "warning",
            "large eps",
            large,
            f"eps={eps:g} of {{names}} is as large as typical variances, so the output's variance is not 1.",
            "Was it meant for momentum? Write layer.eps = 1e-5, but only before training: a trained net has adapted to "
            "its eps.",
            eps,
        )


def _eps(module: nn.Module) -> float | None:
    eps: Any = getattr(module, "eps", None)
    return float(eps) if isinstance(eps, (int, float)) else None


def several_eps(subject: Subject) -> Iterator[Finding]:
    """Layers of one class with different eps: probably some were forgotten when the model was ported."""
    classes: dict[type, dict[float, list[str]]] = defaultdict(lambda: defaultdict(list))
    for name, module in subject.normalizers.items():
        eps = _eps(module)
        if eps is not None:
            classes[type(module)][eps].append(name)
    for layer_class, by_eps in classes.items():
        if len(by_eps) > 1:
            rare = min(by_eps, key=lambda eps: len(by_eps[eps]))
            usual = max(by_eps, key=lambda eps: len(by_eps[eps]))
            yield found(
                "note",
                "several eps",
                by_eps[rare],
                f"{{names}} ha{'s' if len(by_eps[rare]) == 1 else 've'} eps={rare:g}, where most "
                f"{layer_class.__name__} of this model have {usual:g}.",
                "Weights of another framework? nw.load_foreign sets each layer's eps if the checkpoint contains it.",
                rare,
            )


def narrow_statistics(subject: Subject) -> Iterator[Finding]:
    """Running statistics that were converted to half precision together with the model."""
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
    """InstanceNorm with running statistics: its own statistics in training, running ones in evaluation."""
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
            "If that is not intended, nw.swap(model, 'instance', start='copy') gives layers without running "
            "statistics.",
        )


def average_restarts(subject: Subject) -> Iterator[Finding]:
    """``momentum=None`` averages over all counted batches, and the counter is 0 although there are statistics."""
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
            "Set num_batches_tracked to the number of training batches, or freeze the statistics: nw.freeze(model).",
        )


def _counts_none(module: nn.Module) -> bool:
    count = getattr(module, "num_batches_tracked", None)
    return isinstance(count, torch.Tensor) and int(count) == 0


def _remembers_something(module: nn.Module) -> bool:
    mean, variance = module._buffers.get("running_mean"), module._buffers.get("running_var")
    return bool((mean is not None and mean.any()) or (variance is not None and (variance != 1).any()))
