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
from .diagnosis.sites import has_memory
from .modules import unwrapped

# In the order in which findings of one severity stand: what breaks a net, the faults, what they lead to, waste.
RULES: tuple[Callable[[Evidence], Iterator[Finding]], ...] = (
    finite_rules.not_finite,
    finite_rules.poisoned_statistics,
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
    return Findings(type(model).__name__, [finding for rule in RULES for finding in rule(evidence)], _notes(evidence))


def _notes(evidence: Evidence) -> Iterator[str]:
    if evidence.failure is not None:
        yield f"The signal was not measured: {evidence.failure}"
    if evidence.real and evidence.fresh and any(has_memory(module) for _, module in evidence.batch_norms):
        yield "The net is untrained: its running statistics are not judged."
