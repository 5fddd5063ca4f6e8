"""Rules about the signal and its gradient."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby, pairwise

from torch import nn

from ..records import Tap
from .evidence import NORMALIZER_CLASSES, Evidence
from .findings import Finding

# A sum of independent branches of one size grows by a factor of at most 3/2 from its second step on: what grows faster
# over several steps grows with itself.
GROWTH = 1.6
STEPS = 3
DEAD = 0.5
ENOUGH_VALUES = 16
GRADIENT_RANGE = 1e4


def growing_variance(evidence: Evidence) -> Iterator[Finding]:
    """The variance doubles from block to block: 2^k after k blocks."""
    for run in _runs(evidence.path(), lambda ratio: ratio >= GROWTH):
        factor = _factor(run)
        yield Finding(
            "error" if run[-1].variance > 1e3 * run[0].variance else "warning",
            "growing variance",
            run[-1].name,
            f"From {run[0].name} on the variance grows by a factor of {factor:.2g} at each of {len(run) - 1} steps, "
            f"from {run[0].variance:.3g} to {run[-1].variance:.3g}.",
            "Put a normalizer at the start of each residual branch; or scale the branches down (SkipInit, or "
            "x + alpha * f(beta * x) with ScaledWSConv2d, as nw.nets.nf_resnet has it); in a plain net, initialize "
            "with the activation's gain.",
            factor,
        )


def vanishing_variance(evidence: Evidence) -> Iterator[Finding]:
    """The signal dies out layer by layer."""
    for run in _runs(evidence.path(), lambda ratio: ratio <= 1 / GROWTH):
        factor = _factor(run)
        yield Finding(
            "error" if run[-1].variance < 1e-3 * run[0].variance else "warning",
            "vanishing variance",
            run[-1].name,
            f"From {run[0].name} on the variance shrinks by a factor of {factor:.2g} at each of {len(run) - 1} steps, "
            f"from {run[0].variance:.3g} to {run[-1].variance:.3g}.",
            "Initialize the weights with the activation's gain (nn.init.kaiming_normal_ for ReLU; torch's default is "
            "too small by a factor of 6 in variance), or put normalizers in between.",
            factor,
        )


def _runs(taps: Sequence[Tap], counts: Callable[[float], bool]) -> Iterator[list[Tap]]:
    """Stretches of at least `STEPS` consecutive ratios of variances that count."""
    pairs = [(a, b) for a, b in pairwise(taps) if a.variance > 0 and math.isfinite(b.variance)]
    for grows, group in groupby(pairs, key=lambda pair: counts(pair[1].variance / pair[0].variance)):
        stretch = list(group)
        if grows and len(stretch) >= STEPS:
            yield [stretch[0][0], *(b for _, b in stretch)]


def _factor(run: Sequence[Tap]) -> float:
    return (run[-1].variance / run[0].variance) ** (1 / (len(run) - 1)) if run[-1].variance > 0 else 0.0


def mean_shift(evidence: Evidence) -> Iterator[Finding]:
    """Where nothing removes it, the mean outgrows what varies: all inputs look alike."""
    modules = dict(evidence.model.named_modules())
    shifted = [
        tap
        for tap in evidence.path()
        if tap.squared_mean > max(tap.variance, 1e-12) and not _normalizes(modules.get(tap.name.split("#")[0]))
    ]
    if evidence.sites and evidence.trace is not None and not evidence.trace.blocks:
        return  # in a plain net the normalizer after the layer removes it
    if len(shifted) >= STEPS:
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


def _normalizes(module: nn.Module | None) -> bool:
    return module is not None and any(isinstance(m, NORMALIZER_CLASSES) for m in module.modules())


def dead_layer(evidence: Evidence) -> Iterator[Finding]:
    """Units that are constant over the whole input; the first layer of a dead stretch is named."""
    modules = dict(evidence.model.named_modules())
    before = 0.0
    for tap in evidence.trace.layers if evidence.trace else ():
        values = math.prod(tap.shape) // tap.shape[tap.channel_axis]
        dead = tap.dead_share if values >= ENOUGH_VALUES else 0.0
        if dead >= DEAD and before < DEAD and not _starts_at_zero(modules.get(tap.name.split("#")[0])):
            yield Finding(
                "error" if dead == 1 else "warning",
                "dead layer",
                tap.name,
                f"{dead:.0%} of its {tap.shape[tap.channel_axis]} channels are constant over the whole input.",
                "Look at the biases and the scale before it: a ReLU that never opens passes no gradient. A smaller "
                "learning rate, biases of 0, a normalizer before it or LeakyReLU keep units alive.",
                dead,
            )
        before = dead


def _starts_at_zero(module: nn.Module | None) -> bool:
    """Zero on purpose: the last normalizer, convolution or gain of a branch."""
    weights = [] if module is None else [p for name, p in module.named_parameters(recurse=False) if "bias" not in name]
    return bool(weights) and not any(bool(weight.any()) for weight in weights)


def gradient_range(evidence: Evidence) -> Iterator[Finding]:
    """What of the gradient arrives at the front, in sums of squares per sample, which do not depend on resolution."""
    energies = [
        (tap, tap.gradient * math.prod(tap.shape[1:]))
        for tap in evidence.path()
        if tap.gradient is not None and math.isfinite(tap.gradient) and tap.gradient > 0
    ]
    if len(energies) < 2:
        return
    (first, front), (last, back) = energies[0], energies[-1]
    ratio = front / back
    if 1 / GRADIENT_RANGE < ratio < GRADIENT_RANGE:
        return
    explodes = ratio > 1
    steps = len(energies) - 1
    yield Finding(
        "error",
        "exploding gradient" if explodes else "vanishing gradient",
        first.name,
        f"From {last.name} back to {first.name} the gradient's square {'grows' if explodes else 'shrinks'} by a factor "
        f"of {ratio if explodes else 1 / ratio:.2g}, {(ratio if explodes else 1 / ratio) ** (1 / steps):.2g} at each "
        f"of {steps} steps.",
        "Add shortcuts, normalize, or initialize with the activation's gain; sigmoid and tanh shrink gradients.",
        ratio,
    )


def not_finite(evidence: Evidence) -> Iterator[Finding]:
    """The first place where values are NaN or infinite."""
    broken = [tap for tap in (evidence.trace.taps if evidence.trace else ()) if tap.nonfinite]
    if broken:
        first = broken[0]
        yield Finding(
            "error",
            "not finite",
            first.name,
            f"{first.nonfinite} of its output values are NaN or infinite (shape {list(first.shape)}), the first of "
            f"{len(broken)} such places.",
            "Look for a division, logarithm or root at zero, for overflow in half precision, and at the input.",
            float(first.nonfinite),
        )
