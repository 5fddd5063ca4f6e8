"""What the numbers of a checkpoint show by themselves, without the model they belong to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from ...signal.diagnosis.findings import Finding, Findings
from .subject import found

_MEAN, _VARIANCE, _COUNT = "running_mean", "running_var", "num_batches_tracked"
_NARROW = (torch.float16, torch.bfloat16)
_RECALIBRATE = "Load it into its model, then nw.recalibrate(model, loader)."


def findings_in_state(state: Mapping[str, Tensor], name: str) -> Findings:
    """Findings about the tensors of a state_dict: numbers that are not finite, and running statistics.

    >>> state = torch.nn.BatchNorm2d(2).state_dict()
    >>> [finding.rule for finding in findings_in_state(state | {"running_var": torch.tensor([1.0, -1.0])}, "a.pt")]
    ['negative variance']
    """
    variances = {key.removesuffix(_VARIANCE).rstrip("."): t for key, t in state.items() if _is(key, _VARIANCE)}
    note = f"A checkpoint alone: {len(state)} tensors, running statistics of {len(variances)} normalizers."
    findings = [*_not_finite(state), *_negative(variances), *_untouched(state, variances), *_narrow(variances)]
    return Findings(name, findings, [note, "Write the model's name in front of it to have the model examined."])


def _is(key: str, name: str) -> bool:
    return key == name or key.endswith(f".{name}")


def _not_finite(state: Mapping[str, Tensor]) -> Iterator[Finding]:
    broken = [key for key, t in state.items() if t.is_floating_point() and not bool(torch.isfinite(t).all())]
    statistics = [key for key in broken if _is(key, _MEAN) or _is(key, _VARIANCE)]
    weights = [key for key in broken if key not in statistics]
    if weights:
        what = "{names} hold{s} NaN or infinite values: whatever passes them is NaN."
        yield found("error", "not finite", weights, what, "Go back to an earlier checkpoint; nothing mends weights.")
    if statistics:
        what = "{names} hold{s} NaN or infinite values: evaluation gives NaN."
        yield found("error", "poisoned statistics", statistics, what, _RECALIBRATE)


def _negative(variances: Mapping[str, Tensor]) -> Iterator[Finding]:
    below = [name for name, t in variances.items() if bool((t < 0).any())]
    if below:
        what = "{names} remember{s} variances below 0: evaluation gives NaN."
        yield found("error", "negative variance", below, what, _RECALIBRATE)


def _untouched(state: Mapping[str, Tensor], variances: Mapping[str, Tensor]) -> Iterator[Finding]:
    fresh = []
    for name, variance in variances.items():
        of = f"{name}." if name else ""
        mean, count = state.get(f"{of}{_MEAN}"), state.get(f"{of}{_COUNT}")
        started = mean is not None and not bool(mean.any()) and bool((variance == 1).all())
        if started and (count is None or int(count) == 0):
            fresh.append(name)
    if fresh:
        what = "{names} ha{s} running statistics that were never updated: mean 0 and variance 1, as at the start."
        text = what.replace("ha{s}", "has" if len(fresh) == 1 else "have")
        yield found("warning", "stale statistics", fresh, text, _RECALIBRATE, 0.0)


def _narrow(variances: Mapping[str, Tensor]) -> Iterator[Finding]:
    narrow = [name for name, t in variances.items() if t.dtype in _NARROW]
    if narrow:
        what = "{names} keep{s} running statistics in half precision."
        yield found("note", "statistics in half precision", narrow, what, _RECALIBRATE)
