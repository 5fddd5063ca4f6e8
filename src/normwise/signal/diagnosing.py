"""Findings in words about a model and its signal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from torch import nn

from .batches import Forward
from .diagnosis import domain_rules, finite_rules, growth_rules, memory_rules, placement_rules, signal_rules
from .diagnosis.evidence import Evidence
from .diagnosis.findings import Finding, Findings
from .diagnosis.gathering import gather
from .modules import unwrapped

# The rules in the order of their findings within one severity: fatal problems, faults, their consequences, waste.
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
    domain_rules.mixed_domains,
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
    """Find problems of a model's signal: where they are, how large, and what to do about them.

    It looks for values that are not finite, in the data, the weights, the outputs, the loss and the gradients; for
    variance that grows by a factor from block to block or vanishes, mean shift, dead layers, vanishing or exploding
    gradients; for batches of different domains; for running statistics that are stale, contain NaN, are missing or come
    from the last batch only, dropout in front of BatchNorm, batches too small for it, and a gap between training and
    evaluation; for one value per channel or group, losses by the conversion of another tool, normalizers in a row, and
    biases that a normalizer removes. The worst come first, and causes before their consequences. The page "signal" of
    the docs has the criterion of each rule.

    Args:
        model: any module; it is unchanged afterwards.
        data: as for `trace`: None or a shape for noise; a batch, a list of batches or a loader, also one that can be
            read only once. Stale statistics and a train-eval gap can only be found with data, and in a trained net.
        skip_gain, forward, batches: as in `trace`. If ``forward`` returns a loss, the gradients are those of the loss,
            and the gap between training and evaluation is measured at the output of the model.

    Raises the errors of `trace`; one value per channel, for which BatchNorm raises an error, is a finding instead. The
    trap: without data the model runs on noise, so "nothing found" then says nothing about your data.

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
