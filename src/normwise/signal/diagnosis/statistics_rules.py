"""Rules about normalizers and what they remember."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from .evidence import BATCH, INSTANCE, Evidence, Site
from .findings import Finding

SMALL_BATCH = 4
STALE = 1.0
GAP = 0.5
RECALIBRATE = "Let batches of the data pass in training mode (no gradients needed) before you evaluate."


def poisoned_statistics(evidence: Evidence) -> Iterator[Finding]:
    """A single NaN or infinity in a batch stays in torch's running statistics for ever."""
    for name, module in evidence.model.named_modules():
        memory = [b for key, b in module.named_buffers(recurse=False) if key in ("running_mean", "running_var")]
        broken = [int((~b.isfinite()).sum()) for b in memory if b is not None]
        if any(broken):
            yield Finding(
                "error",
                "poisoned statistics",
                name,
                f"{sum(broken)} of the {sum(b.numel() for b in memory)} running means and variances are NaN or "
                "infinite: the evaluation mode gives NaN, whatever the input.",
                "Reset them (module.reset_running_stats()) and let clean batches pass; normwise's BatchNorm skips "
                "batches that are not finite.",
                float(sum(broken)),
            )


def stale_statistics(evidence: Evidence) -> Iterator[Finding]:
    """Running statistics that are not those of the data: distances in deviations, and ratios of variances."""
    if not evidence.real:
        return
    for site in evidence.batch_sites:
        mean, variance = (getattr(site.module, key, None) for key in ("running_mean", "running_var"))
        if mean is None or variance is None or not site.means or not _finite(mean, variance):
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
                f"channels), the running variance {ratio:.2g} times the data's: evaluation sees another signal than "
                "training.",
                f"{RECALIBRATE} If the data are of another domain than the training's, this is what it costs.",
                distance,
            )


def _never_updated(site: Site) -> Finding:
    return Finding(
        "note",
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
    distance = ((mean - ours).square() / (spread + eps)).mean().sqrt()
    ratio = torch.exp(torch.log((variance.clamp_min(0) + eps) / (spread + eps)).mean())
    return float(distance), float(ratio)


def _finite(*tensors: Tensor) -> bool:
    return all(bool(t.isfinite().all()) for t in tensors)


def one_value_per_channel(evidence: Evidence) -> Iterator[Finding]:
    """The mean of one value is that value: the output is the bias."""
    for site in evidence.sites.values():
        over_batch = isinstance(site.module, BATCH)
        if not over_batch and not isinstance(site.module, INSTANCE):
            continue
        values = site.values_per_channel if over_batch else site.values_per_channel // site.samples
        if values == 1:
            yield Finding(
                "error",
                "one value per channel",
                site.name,
                f"Its input {list(site.shape)} holds 1 value per channel"
                f"{'' if over_batch else ' and sample'}, which minus its own mean is 0.",
                "Use a larger batch (drop_last=True in the loader) or larger maps, or GroupNorm or LayerNorm here.",
                1.0,
            )


def small_batch(evidence: Evidence) -> Iterator[Finding]:
    """Statistics of few samples are noise; one finding for the net."""
    sites = [s for s in evidence.batch_sites if s.values_per_channel > 1 and s.samples <= SMALL_BATCH]
    if sites and evidence.given:
        samples = sites[0].samples
        yield Finding(
            "warning",
            "small batch",
            sites[0].name,
            f"{_names(sites)} normalize{'s' if len(sites) == 1 else ''} over batches of {samples}: the statistics "
            f"differ from batch to batch by about 1/sqrt({samples}) of a standard deviation, and evaluation knows "
            "nothing of it.",
            "If you train with such batches, use GroupNorm, Batch Renorm or SyncBatchNorm; `normwise compare` measures "
            "which.",
            float(samples),
        )


def useless_bias(evidence: Evidence) -> Iterator[Finding]:
    """A bias that the mean's subtraction takes away again: a parameter that does nothing."""
    sites = [s for s in evidence.sites.values() if s.after is not None and isinstance(s.module, (*BATCH, *INSTANCE))]
    if sites:
        yield Finding(
            "note",
            "useless bias",
            str(sites[0].after),
            f"{_names(sites, after=True)} add{'s' if len(sites) == 1 else ''} a bias that the normalizer behind "
            "subtracts again with the mean.",
            "Write bias=False there; the normalizer has a bias of its own.",
            float(len(sites)),
        )


def train_eval_gap(evidence: Evidence) -> Iterator[Finding]:
    """The same data, normalized by themselves and by what the net remembers."""
    if evidence.gap is not None and not evidence.gap <= GAP:
        yield Finding(
            "warning" if math.isfinite(evidence.gap) else "error",
            "train-eval gap",
            type(evidence.model).__name__,
            f"The outputs in evaluation differ from those in training by {evidence.gap:.2g} of their variance.",
            f"{RECALIBRATE} What remains is the noise of small batches: a larger batch, GroupNorm or Batch Renorm.",
            evidence.gap,
        )


def _names(sites: Sequence[Site], *, after: bool = False) -> str:
    names = [str(site.after if after else site.name) for site in sites]
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
