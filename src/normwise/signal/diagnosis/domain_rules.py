"""A rule about batches that are not random samples of the data."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from .evidence import Evidence
from .findings import Finding
from .sites import Site

# In standard deviations of a normal variable: far beyond what the many normalizers of a net reach by chance.
SURE = 4.5
# A smaller scatter of the statistics beyond sampling does not harm evaluation: of means in standard deviations of their
# channels, of variances relative to their own.
MEANS_APART, VARIANCES_APART = 0.3, 0.5


def mixed_domains(evidence: Evidence) -> Iterator[Finding]:
    """Batch statistics that differ from batch to batch by more than the samples inside of the batches explain."""
    if not evidence.real:
        return
    for site in evidence.batch_sites:
        apart = [(name, _beyond_chance(site, table)) for name, table in (("means", 0), ("variances", 1))]
        found = {name: scatter for name, scatter in apart if scatter > _least(name)}
        if found:
            name = max(found, key=lambda name: found[name] / _least(name))
            unit = "channel deviations" if name == "means" else "channel variances"
            yield Finding(
                "warning",
                "mixed domains",
                site.name,
                f"The {name} of its {len(site.samples_seen)} batches scatter by {found[name]:.2g} {unit} beyond what "
                "the samples inside of each explain: the batches are of different domains, classes or patients. "
                "BatchNorm's running statistics are an average that fits none of them.",
                "Shuffle the data, so that every batch is a mixture. If batches must hold one domain each, use "
                "GroupNorm, Batch Renorm, or running statistics for each domain (nw.statistics_bank); `normwise "
                "compare --batches-by KEY` measures which is best.",
                found[name],
            )
            return


def _least(name: str) -> float:
    return MEANS_APART if name == "means" else VARIANCES_APART


def _beyond_chance(site: Site, table: int) -> float:
    """The scatter of a batch statistic beyond sampling, relative to the channels' own; 0 if chance explains it.

    It is an analysis of variance: the scatter of the batches' values against that of the samples' within the batches.
    F is computed over all channels together, as if they were one, which is conservative for correlated channels.
    """
    values = [seen[table] for seen in site.samples_seen]
    counts = [len(value) for value in values]
    if len(values) < 2 or min(counts) < 2 or not all(bool(value.isfinite().all()) for value in values):
        return 0.0
    scale = torch.cat([seen[1] for seen in site.samples_seen]).mean(0)
    scale = scale.sqrt() if table == 0 else scale
    alive = scale > 0
    if not bool(alive.any()):
        return 0.0
    values = [value[:, alive] / scale[alive] for value in values]
    size = len(counts) / sum(1 / count for count in counts)
    between = float(torch.stack([value.mean(0) for value in values]).var(0).mean())
    within = float(_pooled_variance(values).mean())
    by_sampling = within / size
    freedom = len(counts) - 1, sum(counts) - len(counts)
    if between <= by_sampling or _deviations(between, by_sampling, freedom) < SURE:
        return 0.0
    return math.sqrt(between - by_sampling)


def _pooled_variance(values: list[Tensor]) -> Tensor:
    """The variance within the batches."""
    squares = sum((value - value.mean(0)).square().sum(0) for value in values)
    return torch.as_tensor(squares) / sum(len(value) - 1 for value in values)


def _deviations(between: float, by_sampling: float, freedom: tuple[int, int]) -> float:
    """An F as the normal deviate of the same probability (Paulson 1942): cube roots are nearly normal."""
    if by_sampling == 0:
        return math.inf
    root = (between / by_sampling) ** (1 / 3)
    a, b = (2 / (9 * n) for n in freedom)
    return ((1 - b) * root - (1 - a)) / math.sqrt(a + b * root * root)
