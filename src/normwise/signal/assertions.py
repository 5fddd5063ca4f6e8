"""`assert_signal`: bounds for the signal in the tests of a user's network."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from torch import nn

from .batches import Forward
from .records import Kind, Tap, Trace
from .tracing import trace

SHOWN = 8
REMEDIES = {
    "high": "The variance grows: scale the branches down (SkipInit; x + alpha * f(beta * x)), normalize, or start from "
    "smaller weights.",
    "low": "The signal dies out: start from weights with the activation's gain (gamma of ScaledWSConv2d, "
    "nn.init.kaiming_normal_), and check small maps, where zero padding reduces the variance.",
    "mean": "The mean shifts: use weights without a mean (ScaledWSConv2d, scaled_weight_standardization) or a "
    "normalizer that subtracts the mean.",
    "broken": "Values are NaN or infinite: check the first of these places.",
}


def assert_signal(
    model: nn.Module | Trace,
    input: Any = None,
    variance: tuple[float, float] | None = (0.5, 2.0),
    squared_mean: float | None = 0.1,
    *,
    kinds: Sequence[Kind] | None = None,
    skip_gain: float | None = 1.0,
    forward: Forward | None = None,
) -> Trace:
    """Assert that the signal of a model stays within bounds; for use in the tests of your own network.

    Args:
        model: a module, measured by `trace` with batch statistics; or a trace (also a predicted one).
        input: as for `trace`; None is Gaussian noise in a shape that fits the first layer.
        variance: the lowest and the highest average channel variance; None leaves it out.
        squared_mean: the highest average channel squared mean; None leaves it out.
        kinds: the checked taps: any of ``"block"``, ``"branch"``, ``"layer"``. None checks blocks and branches, or the
            layers of a model without residual blocks.
        skip_gain: the value of SkipInit's gains during the measurement; 1 as in the paper, because at the initial 0 the
            branches contribute nothing.
        forward: as in `trace`.

    Returns the trace. Raises AssertionError with the modules, their numbers and a remedy for each violated bound;
    ValueError for bounds that cannot be met. The trap: the bounds are for averages over the channels, so a few dead
    channels are not noticed; see `Tap.dead_share`.

    The default bounds hold for normalizer-free residual networks (Brock, De and Smith 2021, arXiv:2101.08692).

    >>> import normwise as nw
    >>> net = nw.nets.nf_resnet26(stem="small")
    >>> _ = assert_signal(net, (16, 3, 32, 32))
    >>> assert_signal(nw.nets.resnet(8, norm="none"), (16, 3, 32, 32), kinds=["layer"])
    Traceback (most recent call last):
    ...
    AssertionError: assert_signal: ...
    """
    _check_bounds(variance, squared_mean)
    measured = model if isinstance(model, Trace) else trace(model, input, skip_gain=skip_gain, forward=forward)
    taps = [tap for tap in measured.taps if tap.kind in _kinds(measured, kinds)]
    if not taps:
        raise ValueError(f"assert_signal: {measured.model} has no {' or '.join(_kinds(measured, kinds))} to check.")
    violations = [(tap, reason, text) for tap in taps for reason, text in _violations(tap, variance, squared_mean)]
    if violations:
        raise AssertionError(_message(measured, taps, violations))
    return measured


def _check_bounds(variance: tuple[float, float] | None, squared_mean: float | None) -> None:
    if variance is not None and not (len(variance) == 2 and 0 <= variance[0] < variance[1]):
        raise ValueError(f"assert_signal(variance={variance}): write the lowest and the highest, such as (0.5, 2).")
    if squared_mean is not None and not squared_mean >= 0:
        raise ValueError(f"assert_signal(squared_mean={squared_mean}): the bound must not be negative.")


def _kinds(measured: Trace, kinds: Sequence[Kind] | None) -> Sequence[str]:
    if kinds is None:
        return ("block", "branch") if measured.blocks else ("layer",)
    unknown = set(kinds) - {"block", "branch", "layer"}
    if unknown:
        raise ValueError(f"assert_signal(kinds={list(kinds)}): the kinds are 'block', 'branch' and 'layer'.")
    return kinds


def _violations(
    tap: Tap, variance: tuple[float, float] | None, squared_mean: float | None
) -> Iterator[tuple[str, str]]:
    if tap.nonfinite:
        yield "broken", f"{tap.nonfinite} values NaN or infinite"
    if variance is not None and not tap.variance >= variance[0]:
        yield "low", f"variance {tap.variance:.3g}, below {variance[0]:g}"
    if variance is not None and not tap.variance <= variance[1]:
        yield "high", f"variance {tap.variance:.3g}, above {variance[1]:g}"
    if squared_mean is not None and not tap.squared_mean <= squared_mean:
        yield "mean", f"squared mean {tap.squared_mean:.3g}, above {squared_mean:g}"


def _message(measured: Trace, taps: Sequence[Tap], violations: Sequence[tuple[Tap, str, str]]) -> str:
    places = len({(tap.kind, tap.name) for tap, _, _ in violations})
    lines = [f"assert_signal: {measured.model} is out of bounds at {places} of {len(taps)} places."]
    lines += [f"  {tap.kind} {tap.name} ({tap.type}): {text}" for tap, _, text in violations[:SHOWN]]
    if len(violations) > SHOWN:
        lines.append(f"  and {len(violations) - SHOWN} more")
    reasons = {reason for _, reason, _ in violations}
    return "\n".join([*lines, *(text for reason, text in REMEDIES.items() if reason in reasons)])
