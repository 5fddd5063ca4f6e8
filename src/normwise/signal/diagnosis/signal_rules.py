"""Rules about the mean of the signal, dead units and gradients."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise
from statistics import median

from normwise.weights.layers import LAYERS

from ..modules import has_zero_weight
from ..records import Tap
from .constant_inputs import DEAD
from .evidence import Evidence
from .findings import Finding
from .sites import normalizes

SHIFTED_PLACES = 3
ENOUGH_VALUES = 16
GRADIENT_RANGE = 1e4
# Behind a normalizer the gradient of a layer shrinks as its weights grow, so deep sound nets have a wider range.
GRADIENT_RANGE_NORMALIZED = 1e8


def mean_shift(evidence: Evidence) -> Iterator[Finding]:
    """The squared mean exceeds the variance and nothing removes it: the signal is nearly the same for all inputs."""
    shifted = [
        tap
        for tap in evidence.path()
        if tap.squared_mean > max(tap.variance, 1e-12) and not normalizes(evidence.module_of(tap))
    ]
    if evidence.sites and evidence.trace is not None and not evidence.trace.blocks:
        return  # in a plain net the normalizer after the layer removes it
    if len(shifted) >= SHIFTED_PLACES:
        worst = max(shifted, key=lambda tap: tap.squared_mean / max(tap.variance, 1e-12))
        ratio = worst.squared_mean / max(worst.variance, 1e-12)
        yield Finding(
            "warning",
            "mean shift",
            worst.name,
            f"The squared channel mean is {worst.squared_mean:.3g}, {ratio:.2g} times the variance, and exceeds it at "
            f"{len(shifted)} places from {shifted[0].name} on: most of the signal is the same for every input.",
            "Use weights without a mean (ScaledWSConv2d, scaled_weight_standardization), a normalizer that subtracts "
            "the mean, or an activation of mean 0.",
            ratio,
        )


def dead_layer(evidence: Evidence) -> Iterator[Finding]:
    """Units that are constant over the whole input, in a layer whose own input is not."""
    for tap in evidence.trace.layers if evidence.trace else ():
        values = math.prod(tap.shape) // tap.shape[tap.channel_axis]
        dies_here = tap.dead_share >= DEAD and evidence.constant_inputs.get(tap.name, 0.0) < DEAD
        if values >= ENOUGH_VALUES and dies_here and not _on_purpose(evidence, tap):
            yield Finding(
                "error" if tap.dead_share == 1 else "warning",
                "dead layer",
                tap.name,
                f"{tap.dead_share:.0%} of its {tap.shape[tap.channel_axis]} channels are constant over the whole "
                "input.",
                "Check the biases and the scale before it: a ReLU whose input is never positive passes no gradient. A "
                "smaller learning rate, biases of 0, a normalizer before it or LeakyReLU avoid dead units.",
                tap.dead_share,
            )


def _on_purpose(evidence: Evidence, tap: Tap) -> bool:
    """Whether a layer is initialized with zeros on purpose: at the end of a branch with a shortcut, or of the net."""
    module = evidence.module_of(tap)
    if module is None or not has_zero_weight(module):
        return False
    place = evidence.taps.index(tap)
    before, later = evidence.taps[:place], evidence.taps[place + 1 :]
    modules = [(t, evidence.module_of(t)) for t in later]
    layers = [t for t, module in modules if isinstance(module, LAYERS) and not has_zero_weight(module)]
    if tap.gradient:
        return not layers or any(t.gradient for t in before)
    # A head with weights of zero passes no gradient to the layers before it.
    return not layers or any(t.dead_share < DEAD for t in layers)


def gradient_range(evidence: Evidence) -> Iterator[Finding]:
    """Gradients that vanish or explode: the squared gradient times the variance, independent of a layer's scale."""
    path = [(tap, _sensitivity(tap)) for tap in evidence.path()]
    path = [(tap, value) for tap, value in path if 0 < value < math.inf]
    if len(path) < 2:
        return
    (first, front), (last, back) = path[0], path[-1]
    ratio = front / back
    # A gain with a small initial value is a single step; vanishing or exploding continues over many steps.
    typical = median(math.log(a / b) for (_, a), (_, b) in pairwise(path)) * (len(path) - 1)
    bound = GRADIENT_RANGE_NORMALIZED if evidence.sites else GRADIENT_RANGE
    if abs(math.log(ratio)) < math.log(bound) or typical / math.log(ratio) < 0.5:
        return
    factor = max(ratio, 1 / ratio)
    yield Finding(
        "error",
        "exploding gradient" if ratio > 1 else "vanishing gradient",
        first.name,
        f"From {last.name} back to {first.name} the gradient's square, times the variance, "
        f"{'grows' if ratio > 1 else 'shrinks'} by a factor of {factor:.2g}, {factor ** (1 / (len(path) - 1)):.2g} at "
        f"each of {len(path) - 1} steps.",
        "Add shortcuts, normalize, or initialize with the activation's gain; sigmoid and tanh shrink gradients.",
        ratio,
    )


def _sensitivity(tap: Tap) -> float:
    """The sum of the gradient's squares per sample times the variance; 0 without a gradient."""
    return 0.0 if tap.gradient is None else tap.gradient * math.prod(tap.shape[1:]) * tap.variance
