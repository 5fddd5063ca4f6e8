"""Findings in words about a model and its signal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from torch import nn

from .batches import Forward
from .diagnosis import finite_rules, growth_rules, memory_rules, placement_rules, signal_rules
from .diagnosis.evidence import Evidence
from .diagnosis.findings import Finding, Findings
from .diagnosis.gathering import gather
from .modules import unwrapped

# In the order in which findings of one severity stand: what breaks a net, the faults, what they lead to, waste.
RULES: tuple[Callable[[Evidence], Iterator[Finding]], ...] = (
    finite_rules.not_finite,
    finite_rules.poisoned_statistics,
    placement_rules.lost_in_a_conversion,
    placement_rules.one_value_per_channel,
    signal_rules.dead_layer,
    growth_rules.growing_variance,
    growth_rules.vanishing_variance,
    signal_rules.gradient_range,
    signal_rules.mean_shift,
    memory_rules.high_momentum,
    memory_rules.no_running_statistics,
    memory_rules.dropout_before_batch_norm,
    memory_rules.small_batch,
    memory_rules.stale_statistics,
    memory_rules.train_eval_gap,
    placement_rules.normalizers_in_a_row,
    placement_rules.useless_bias,
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

    Looks for values that are not finite, in the data, the weights, the outputs, the loss and the gradients; variance
    that is multiplied from block to block or dies out, mean shift, dead layers, gradients that vanish or explode;
    running statistics that are stale, poisoned by NaN, missing or of the last batch alone, dropout in front of
    BatchNorm, batches too small for it, and a gap between training and evaluation; one value per channel or group, what
    another tool's conversion lost, normalizers in a row, and biases that a normalizer removes. Worst first, and causes
    before what they lead to. The page "signal" of the docs says what each rule takes for wrong.

    Args:
        model: any module; it is given back as it was.
        data: as `trace` takes it: None or a shape for noise; a batch, a list of batches or a loader, also one that can
            be read once. What a net remembers of its data (stale statistics, train-eval gap) can only be judged on
            data, and of a net that has been trained.
        skip_gain, forward, batches: as in `trace`. Where ``forward`` returns a loss, the gradients are the loss's, and
            the gap between training and evaluation is that of what the model gives.

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
