"""The contestant `bank`: BatchNorm with separate running statistics for each group of samples."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

from torch import nn

from ...layers.statistics import statistics_bank
from ..groups import NAMES_SHOWN, Groups

BANK = "bank"

PROTOCOL = (
    f"{BANK} is BatchNorm with separate running statistics for each group (normwise.statistics_bank): in evaluation a "
    "sample is normalized by those of its group, which must be known there, too. Everything else is as in BatchNorm."
)


def remembering(model: nn.Module, group: int | None) -> AbstractContextManager[object]:
    """Inside the block the model uses the running statistics of `group`, or its usual ones if `group` is None."""
    return nullcontext() if group is None else statistics_bank(model, f"group{group}")


def make_banks(model: nn.Module, groups: Groups) -> None:
    """Make a bank for each group at the start, so that the memory of a step does not grow during the training."""
    for group in groups.train.unique().tolist():
        with remembering(model, group):
            pass


def why_no_bank(groups: Groups | None) -> str | None:
    """Why this contestant cannot run on these groups, as the end of a sentence; None if it can."""
    if groups is None:
        return "it keeps running statistics for each group of samples, and without --batches-by there are no groups"
    unseen = groups.unseen()
    if unseen:
        return f"it has no statistics for {', '.join(unseen[:NAMES_SHOWN])}: the training split has no such samples"
    return None
