"""Rules about the places of normalizers: those where they have no effect or undo each other."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from normwise.layers import LentEpsilon

from .evidence import Evidence
from .findings import Finding, listed
from .sites import BATCH, INSTANCE, NORMALIZER_CLASSES, Site, is_affine


def one_value_per_channel(evidence: Evidence) -> Iterator[Finding]:
    """A pool of one value: its mean is that value, so the output is the bias."""
    for site in evidence.sites.values():
        if site.pool != 1:
            continue
        by_channel = isinstance(site.module, (*BATCH, *INSTANCE))
        what = "channel" if by_channel else "group" if isinstance(site.module, nn.GroupNorm) else "position"
        yield Finding(
            "error",
            f"one value per {what}",
            site.name,
            f"Its input {list(site.shape)} holds 1 value per {what}{'' if site.over_batch else ' and sample'}, which "
            "minus its own mean is 0: the output is the bias, whatever the input.",
            _more_values(site),
            1.0,
        )


def _more_values(site: Site) -> str:
    if isinstance(site.module, nn.GroupNorm):
        return "Use fewer groups (channels / num_groups of at least 8), or leave it out where the maps are 1 x 1."
    if site.over_batch or isinstance(site.module, INSTANCE):
        return "Use a larger batch (drop_last=True in the loader) or larger maps, or GroupNorm or LayerNorm here."
    return "Normalize over more than one feature, or leave it out here."


def lost_in_a_conversion(evidence: Evidence) -> Iterator[Finding]:
    """A function of another tool has built a module from the values of a layer and dropped a part of the layer."""
    for name, module in evidence.model.named_modules():
        eps = vars(module).get("eps")
        if not isinstance(eps, LentEpsilon):
            continue
        lost = eps.training if isinstance(module, BATCH) else eps.evaluation
        if lost and not _has_an_activation(module):
            yield Finding(
                "error",
                "lost in a conversion",
                name,
                f"It was built from the values of a {eps.layer} by {eps.by}, and lacks {lost}.",
                "Do not convert this layer with that function, or add the missing parts behind the new one.",
                1.0,
            )


def _has_an_activation(module: nn.Module) -> bool:
    """Whether a layer applies an activation itself, as those of timm."""
    return any(isinstance(child, nn.Module) and not isinstance(child, nn.Identity) for child in module.children())


def normalizers_in_a_row(evidence: Evidence) -> Iterator[Finding]:
    """Two normalizers in a row: the second undoes the scale and shift of the first."""
    sites = [site for site in evidence.sites.values() if _repeats(site)]
    if sites:
        first = sites[0]
        before = first.source.name if first.source else ""
        more = "" if len(sites) == 1 else f", and so do {len(sites) - 1} more"
        yield Finding(
            "note",
            "normalizers in a row",
            first.name,
            f"It normalizes the output of {before} again{more}: the scale and shift of the first one are undone.",
            "Remove one of them, or insert the layer or activation that belongs between them.",
            float(len(sites)),
        )


def _repeats(site: Site) -> bool:
    """Whether this normalizer undoes the scale and shift of the one directly before it."""
    before = site.source
    if before is None or before.shared or not is_affine(before.module):
        return False
    return site.by_channel or isinstance(site.module, type(before.module))


def useless_bias(evidence: Evidence) -> Iterator[Finding]:
    """A bias that the following normalizer subtracts again with the mean: a parameter without effect."""
    sites = [site for site in evidence.sites.values() if _subtracts_bias(site)]
    layers = [site.source.name for site in sites if site.source]
    if layers:
        own = getattr(sites[0].module, "bias", None) is not None
        yield Finding(
            "note",
            "useless bias",
            layers[0],
            f"{listed(layers)} add{'s' if len(layers) == 1 else ''} a bias that the normalizer behind "
            "subtracts again with the mean.",
            "Write bias=False there; the normalizer has a bias of its own."
            if own
            else "Write bias=False there, and affine=True in the normalizer if a bias is wanted.",
            float(len(layers)),
        )


def _subtracts_bias(site: Site) -> bool:
    before = site.source
    if before is None or before.shared or isinstance(before.module, NORMALIZER_CLASSES):
        return False
    return site.by_channel
