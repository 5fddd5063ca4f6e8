"""Findings about the numbers of a checkpoint, without its model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

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
    note = (
        f"A checkpoint alone: {len(state)} tensors, running statistics of {sum(map(_is_variance, state))} normalizers."
    )
    there = {key: values for key, t in state.items() if (values := _values(t)) is not None}
    variances = {key.removesuffix(_VARIANCE).rstrip("."): t for key, t in there.items() if _is_variance(key)}
    findings = [
        *_without_values(key for key in state if key not in there),
        *_no_real_numbers(state),
        *_not_finite(there),
        *_negative(variances),
        *_untouched(there, variances),
        *_narrow(variances),
    ]
    return Findings(name, findings, [note, "Write the model's name in front of it to have the model examined."])


def _is(key: str, name: str) -> bool:
    return key == name or key.endswith(f".{name}")


def _is_variance(key: str) -> bool:
    return _is(key, _VARIANCE)


def _values(t: Tensor) -> Tensor | None:
    """The numbers of a tensor in a form that torch's functions accept; None for a tensor without values."""
    if t.is_meta:
        return None
    t = t.dequantize() if t.is_quantized else t.to_dense()
    t = torch.view_as_real(t.resolve_conj()) if t.is_complex() else t
    return t.float() if t.is_floating_point() and t.itemsize == 1 else t


def _without_values(names: Iterable[str]) -> Iterator[Finding]:
    if absent := list(names):
        problem = "{names} hold{s} no values: saved on the device 'meta'."
        yield found("error", "no values", absent, problem, "Save the state of a model that is on a device.")


def _no_real_numbers(state: Mapping[str, Tensor]) -> Iterator[Finding]:
    other = [key for key, t in state.items() if (_is(key, _MEAN) or _is_variance(key)) and not t.is_floating_point()]
    if other:
        problem = "{names} hold{s} statistics that are not real floating-point numbers, which layers do not accept."
        yield found("error", "statistics of another type", other, problem, _RECALIBRATE)


def _not_finite(state: Mapping[str, Tensor]) -> Iterator[Finding]:
    broken = [key for key, t in state.items() if t.is_floating_point() and not bool(torch.isfinite(t).all())]
    statistics = [key for key in broken if _is(key, _MEAN) or _is(key, _VARIANCE)]
    weights = [key for key in broken if key not in statistics]
    if weights:
        problem = "{names} hold{s} NaN or infinite values: every output computed with them is NaN."
        yield found(
            "error", "not finite", weights, problem, "Use an earlier checkpoint; such weights cannot be repaired."
        )
    if statistics:
        problem = "{names} hold{s} NaN or infinite values: evaluation gives NaN."
        yield found("error", "poisoned statistics", statistics, problem, _RECALIBRATE)


def _negative(variances: Mapping[str, Tensor]) -> Iterator[Finding]:
    below = [name for name, t in variances.items() if bool((t < 0).any())]
    if below:
        problem = "{names} hold{s} variances below 0: evaluation gives NaN."
        yield found("error", "negative variance", below, problem, _RECALIBRATE)


def _untouched(state: Mapping[str, Tensor], variances: Mapping[str, Tensor]) -> Iterator[Finding]:
    fresh = []
    for name, variance in variances.items():
        of = f"{name}." if name else ""
        mean, count = state.get(f"{of}{_MEAN}"), state.get(f"{of}{_COUNT}")
        started = mean is not None and not bool(mean.any()) and bool((variance == 1).all())
        if started and (count is None or not bool(count.any())):
            fresh.append(name)
    if fresh:
        problem = "{names} ha{s} running statistics that were never updated: mean 0 and variance 1, as at the start."
        text = problem.replace("ha{s}", "has" if len(fresh) == 1 else "have")
        yield found("warning", "stale statistics", fresh, text, _RECALIBRATE, 0.0)


def _narrow(variances: Mapping[str, Tensor]) -> Iterator[Finding]:
    narrow = [name for name, t in variances.items() if t.dtype in _NARROW]
    if narrow:
        problem = "{names} keep{s} running statistics in half precision."
        yield found("note", "statistics in half precision", narrow, problem, _RECALIBRATE)
