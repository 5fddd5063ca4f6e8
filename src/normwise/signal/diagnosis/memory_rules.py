"""Rules about normalizers over the batch and their running statistics."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from .evidence import Evidence, untouched
from .findings import Finding, listed
from .sites import Site, has_memory

SMALL_BATCH = 4
MOMENTUM, USUAL_MOMENTUM = 0.5, 0.1
SAMPLES_REMEMBERED = 16
DROPPED = 1.2
STALE = 1.0
GAP = 0.5
RECALIBRATE = "nw.recalibrate(model, loader) computes them again; call it before you evaluate."


def high_momentum(evidence: Evidence) -> Iterator[Finding]:
    """A momentum near 1: PyTorch's is the weight of the new value, so with 0.99 only the last batch counts."""
    found = {name: momentum for name, momentum in _momenta(evidence) if _forgets(evidence, name, momentum)}
    if found:
        momentum = max(found.values())
        names = listed(list(found))
        remembered = _batches_remembered(momentum)
        yield Finding(
            "warning",
            "high momentum",
            next(iter(found)),
            f"momentum={momentum:g} of {names} is the weight of the newest batch: the running statistics are those of "
            f"about {remembered:.2g} batch{'' if remembered < 1.5 else 'es'}, with the noise of so few.",
            f"PyTorch's momentum is 1 minus that of Keras and TensorFlow: write momentum={_meant(momentum):g}, "
            "or None for the average over all batches.",
            momentum,
        )


def _momenta(evidence: Evidence) -> Iterator[tuple[str, float]]:
    for name, module in evidence.remembering:
        momentum: Any = getattr(module, "momentum", None)
        if momentum is not None:
            yield name, float(momentum)


def _forgets(evidence: Evidence, name: str, momentum: float) -> bool:
    if momentum <= USUAL_MOMENTUM:
        return False
    site = evidence.sites.get(name) if evidence.given else None
    samples = math.inf if site is None else site.samples * _batches_remembered(momentum)
    return momentum > MOMENTUM or samples < SAMPLES_REMEMBERED


def _batches_remembered(momentum: float) -> float:
    """The number of batches of a plain average with as much noise as the exponential one."""
    return (2 - momentum) / momentum


def _meant(momentum: float) -> float:
    return max(round(1 - momentum, 6), 0.01) if momentum > MOMENTUM else USUAL_MOMENTUM


def no_running_statistics(evidence: Evidence) -> Iterator[Finding]:
    """Without running statistics, a sample's output in evaluation depends on the other samples of the batch."""
    names = [name for name, module in evidence.batch_norms if not has_memory(module)]
    if names:
        yield Finding(
            "warning",
            "no running statistics",
            names[0],
            f"{listed(names)} normalize{_s(names)} by the batch also in evaluation (track_running_stats=False): the "
            "output of a sample depends on the others in its batch, and a single one cannot be evaluated.",
            "Leave track_running_stats at True, or use a normalizer that does not need the batch: "
            "nw.swap(model, 'group').",
            float(len(names)),
        )


def dropout_before_batch_norm(evidence: Evidence) -> Iterator[Finding]:
    """Dropout before BatchNorm: it raises the variance in training only, so the running variance is too large."""
    found = {name: ratio for name, ratio in evidence.dropped.items() if ratio >= DROPPED}
    if found:
        site, ratio = next(iter(found.items()))
        yield Finding(
            "warning",
            "dropout before BatchNorm",
            evidence.dropouts[site],
            f"With this dropout the variance in front of {listed(list(found))} is {ratio:.3g} times as large: the "
            "running variance comes from training, and in evaluation it is too large by that factor.",
            "Put dropout behind the last BatchNorm, or remove it; LayerNorm and GroupNorm, which keep no running "
            "statistics, do not have this problem.",
            ratio,
        )


def stale_statistics(evidence: Evidence) -> Iterator[Finding]:
    """Running statistics that differ from those of the data: distances in σ, and ratios of variances."""
    if not evidence.real or evidence.fresh:
        return
    for site in evidence.batch_sites:
        mean, variance = (getattr(site.module, key, None) for key in ("running_mean", "running_var"))
        if mean is None or variance is None or not site.means or not _finite(mean, variance, *site.means):
            continue
        if not int(getattr(site.module, "num_batches_tracked", None) or 0):
            yield _never_updated(site)
            continue
        distance, ratio = _disagreement(site, mean, variance)
        if distance > STALE or abs(math.log(ratio)) > math.log(4):
            yield Finding(
                "warning",
                "stale statistics",
                site.name,
                f"The running mean is {distance:.2g} standard deviations from the data's (root mean square over the "
                f"channels), the running variance {ratio:.2g} times the data's: the signal in evaluation differs from "
                "that in training.",
                f"{RECALIBRATE} If the data are of another domain than the training data, this is the cause.",
                distance,
            )


def _never_updated(site: Site) -> Finding:
    return Finding(
        "note" if untouched(site.module) else "warning",
        "stale statistics",
        site.name,
        "The running statistics were never updated: mean 0 and variance 1, as at the start.",
        RECALIBRATE,
        0.0,
    )


def _disagreement(site: Site, mean: Tensor, variance: Tensor) -> tuple[float, float]:
    ours, spread = site.moments()
    mean, variance = (t.detach().cpu().double().flatten() for t in (mean, variance))
    eps = float(getattr(site.module, "eps", 1e-5))
    # Relative to the larger of both: the variance of these few batches may be nearly 0 in a channel.
    distance = ((mean - ours).square() / (torch.maximum(spread, variance) + eps)).mean().sqrt()
    ratio = torch.exp(torch.log((variance.clamp_min(0) + eps) / (spread + eps)).mean())
    return float(distance), float(ratio)


def _finite(*tensors: Tensor) -> bool:
    return all(bool(t.isfinite().all()) for t in tensors)


def small_batch(evidence: Evidence) -> Iterator[Finding]:
    """Statistics of few samples are noise; one finding for the net."""
    sites = [s for s in evidence.batch_sites if (s.pool or 0) > 1 and s.samples <= SMALL_BATCH]
    if sites and evidence.given:
        samples, names = sites[0].samples, [site.name for site in sites]
        yield Finding(
            "warning",
            "small batch",
            names[0],
            f"{listed(names)} normalize{_s(names)} over batches of {samples}: the statistics "
            f"differ from batch to batch by about 1/sqrt({samples}) of a standard deviation, and in evaluation they do "
            "not.",
            "If you train with such batches: nw.swap(model, 'group') or 'renorm', or SyncBatchNorm; `normwise compare` "
            "measures which.",
            float(samples),
        )


def train_eval_gap(evidence: Evidence) -> Iterator[Finding]:
    """The outputs for the same data with batch statistics and with running statistics differ."""
    if evidence.gap is None or evidence.gap <= GAP:
        return
    finite = math.isfinite(evidence.gap)
    yield Finding(
        "warning" if finite else "error",
        "train-eval gap",
        type(evidence.model).__name__,
        f"The outputs in evaluation differ from those in training by {evidence.gap:.2g} of their variance."
        if finite
        else "The outputs are finite with batch statistics, and NaN or infinite in evaluation.",
        f"{RECALIBRATE} What remains is the noise of small batches: a larger batch, or nw.swap(model, 'group').",
        evidence.gap,
    )


def _s(names: Sequence[str]) -> str:
    return "s" if len(names) == 1 else ""
