"""Names of places, made to fit."""

from __future__ import annotations


def shortened(name: str, letters: int) -> str:
    """The beginning and the end of a long name: both say where it is.

    >>> shortened("encoder.layer.11.attention.output.dense", 21)
    'encoder.la…tput.dense'
    >>> shortened("stem", 21)
    'stem'
    """
    if len(name) <= letters:
        return name
    front = (letters - 1) // 2
    return f"{name[:front]}…{name[front + 1 - letters :]}"
