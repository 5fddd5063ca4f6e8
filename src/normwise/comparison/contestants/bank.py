"""The contestant `bank`: BatchNorm that remembers each group of samples by itself."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

from torch import nn

from ...layers.statistics import statistics_bank
from ..groups import NAMES_SHOWN, Groups

BANK = "bank"

PROTOCOL = (
    f"{BANK} is BatchNorm with running statistics of each group by itself (normwise.statistics_bank): in evaluation a "
    "sample is normalized by those of its group, which has to be known there, too. All else is BatchNorm's."
)


def remembering(model: nn.Module, group: int | None) -> AbstractContextManager[object]:
    """Inside the block the model's running statistics are those of a group; its usual ones where that is None."""
    return nullcontext() if group is None else statistics_bank(model, f"group{group}")


def make_banks(model: nn.Module, groups: Groups) -> None:
    """A bank for each group from the start, so that what a step holds does not grow."""
    for group in groups.train.unique().tolist():
        with remembering(model, group):
            pass


def why_no_bank(groups: Groups | None) -> str | None:
    """Why this contestant has nothing to remember; None where it has."""
    if groups is None:
        return "it remembers each group of samples by itself, and without --batches-by there are no groups"
    unseen = groups.unseen()
    if unseen:
        return f"it has no statistics of {', '.join(unseen[:NAMES_SHOWN])}, of which there are no training samples"
    return None
