"""Findings in words about a model and its signal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from torch import nn

from .diagnosis import signal_rules, statistics_rules
from .diagnosis.evidence import Evidence, gather
from .diagnosis.findings import Finding, Findings
from .inputs import Forward
from .modules import unwrapped

RULES: tuple[Callable[[Evidence], Iterator[Finding]], ...] = (
    signal_rules.not_finite,
    statistics_rules.poisoned_statistics,
    statistics_rules.one_value_per_channel,
    signal_rules.growing_variance,
    signal_rules.vanishing_variance,
    signal_rules.gradient_range,
    signal_rules.dead_layer,
    signal_rules.mean_shift,
    statistics_rules.stale_statistics,
    statistics_rules.train_eval_gap,
    statistics_rules.small_batch,
    statistics_rules.useless_bias,
)


def diagnose(
    model: nn.Module,
    data: Any = None,
    *,
    skip_gain: float | None = None,
    forward: Forward | None = None,
    batches: int = 8,
) -> Findings:
    """Say what is wrong with the signal of a model: where, by how much, and what to do about it.

    Looks for variance that doubles from block to block or dies out, mean shift, dead layers, vanishing and exploding
    gradients, values that are not finite; running statistics that are stale or poisoned by NaN, one value per channel,
    batches too small for BatchNorm, biases in front of a normalizer that removes them, and a gap between training
    and evaluation. The page "signal" of the docs says what each rule takes for wrong.

    Args:
        model: any module; it is given back as it was.
        data: as `trace` takes it: None or a shape for noise; a batch or a loader. What a net remembers of its data
            (stale statistics, train-eval gap) can only be judged on data.
        skip_gain, forward, batches: as in `trace`.

    Raises what `trace` raises; one value per channel, at which BatchNorm raises, is a finding.

    >>> from torch import nn
    >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU())
    >>> print(diagnose(net, (16, 3, 8, 8)))
    Sequential: 1 note
    note: 0: useless bias
        0 adds a bias that the normalizer behind subtracts again with the mean.
        Write bias=False there; the normalizer has a bias of its own.
    """
    model = unwrapped(model, "diagnose")
    evidence = gather(model, data, skip_gain=skip_gain, forward=forward, batches=batches)
    findings = [finding for rule in RULES for finding in rule(evidence)]
    notes = [] if evidence.failure is None else [f"The signal was not measured: {evidence.failure}"]
    return Findings(type(model).__name__, findings, notes)
