"""Shorten the names of places."""

from __future__ import annotations


def shortened(name: str, letters: int) -> str:
    """A long name without its middle, or without a part near it that has no digits, since numbers identify places.

    >>> shortened("encoder.layer.11.attention.output.dense", 21)
    'encoder.layer.11…ense'
    >>> shortened("encoder.layer.0.attention.output", 30)
    'encoder.layer.0…tention.output'
    >>> shortened("stem", 21)
    'stem'
    """
    gone = len(name) - letters + 1
    if gone <= 1:
        return name
    middle = (letters - 1) // 2
    starts = sorted(range(1, len(name) - gone), key=lambda start: abs(start - middle))
    start = next((s for s in starts if not any(c.isdigit() for c in name[s : s + gone])), middle)
    return f"{name[:start]}…{name[start + gone :]}"
