"""How a net is meant to be read; the same choices as when it is measured."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Options:
    """``skip_gain`` stands in for every SkipInit gain (None: their own values); ``batch_statistics`` is BatchNorm
    by its batch's statistics, as in training."""

    skip_gain: float | None = None
    batch_statistics: bool = True
