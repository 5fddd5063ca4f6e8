"""Learning rates that were chosen at an end of those tried: a better one may lie beyond."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .cells import listed, spoken

STEP = 3.0


def beyond(about: Mapping[str, Any]) -> list[float]:
    """The tried rates with further ones beyond each end that was chosen; empty if none was.

    >>> beyond({"settings": {"lrs": [0.1, 0.01]}, "chosen_rates": [["batch", 8, 0.1]]})
    [0.01, 0.1, 0.3]
    """
    tried = sorted(about["settings"].get("lrs") or ())
    lowest, highest = _at_the_ends(about)
    lower = [float(f"{tried[0] / STEP:.3g}")] if lowest else []
    higher = [float(f"{tried[-1] * STEP:.3g}")] if highest else []
    return [*lower, *tried, *higher] if lower or higher else []


def in_words(about: Mapping[str, Any]) -> str | None:
    """A remark that names the contestants with such a rate, or None."""
    tried = about["settings"].get("lrs") or [0.0]
    lowest, highest = _at_the_ends(about)
    remarks = [_remark("low", min(tried), lowest), _remark("high", max(tried), highest)]
    return " ".join(filter(None, remarks)) or None


def _remark(end: str, rate: float, norms: list[str]) -> str:
    if not norms:
        return ""
    best = f"The {end}est of the learning rates tried ({rate:g}) was the best for {listed(norms)}"
    return f"{best}: one still {end}er may be better."


def _at_the_ends(about: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """The contestants whose chosen rate is the lowest, and those whose is the highest, at any batch size."""
    tried = about["settings"].get("lrs") or ()
    if len(tried) < 2:
        return [], []
    chosen = about.get("chosen_rates", ())
    lowest, highest = (
        [spoken(norm) for norm in dict.fromkeys(norm for norm, _, rate in chosen if rate == end)]
        for end in (min(tried), max(tried))
    )
    return lowest, highest
